// Looks of the network at a picture, as in dfmamba/predict/looks.py, found.py and sides.py.
//
// A look is [right, left]; each is a hand {joints: 21 of [u, v, d] in pixels of the picture, jointScores,
// score} or null. Hands of a picture are pairs [side, hand], side 0 right and 1 left.

import {
  boxIou, boxOfPoints, compose, cropAffine, extent, isMirrored, squareBox, unionOf, uprightAffines,
} from './affine.js';
import { handBox, jointsToPicture } from './lift.js';
import { mirrorCrop, warp } from './warp.js';

const JOINTS = 21;
const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function logit(score) {
  const inside = Math.min(Math.max(score, 1e-6), 1 - 1e-6);
  return Math.log(inside / (1 - inside));
}

/** The sides that a look shows. */
export const sidesOf = (look) => [0, 1].filter((side) => look[side]);

export const only = (hands) => {
  const look = [null, null];
  for (const [side, hand] of hands) look[side] = hand;
  return look;
};

export class Looker {
  /**
   * @param run crops (Float32Array of n * 3 * size * size in 0..1, n) to {joints_25d, joint_logits,
   *   present_logits}, flat arrays; asynchronous.
   * @param constants see dfmamba/export/browser.py.
   */
  constructor(run, constants) {
    this.run = run;
    this.constants = constants;
    this.size = constants.image_size;
  }

  look(picture, maps) {
    return this.lookAtCrops(maps.map((map) => warp(picture, map, this.size)), maps);
  }

  /** One look at each crop (size * size * 3 bytes), cut by its map from the pixels of the picture. */
  async lookAtCrops(crops, maps) {
    const looks = [];
    const most = this.constants.batch_size;
    for (let start = 0; start < crops.length; start += most) {
      const part = crops.slice(start, start + most);
      const output = await this.run(planes(part, this.size), part.length);
      part.forEach((_, i) => looks.push(readLook(output, i, maps[start + i])));
    }
    return looks;
  }

  lookAtBoxes(picture, squares) {
    return this.look(picture, squares.map((square) => cropAffine(square, this.size)));
  }

  /**
   * Look again, straight, around each hand above the threshold; at both together where they overlap. A look
   * at a square that saw hardly more than the closer one would stays.
   */
  async lookCloser(picture, look, seen, threshold) {
    const { UNION_IOU, CLOSE_FACTOR, NEAR_ENOUGH } = this.constants;
    const sides = sidesOf(look).filter((side) =>
      look[side].score >= threshold && this.inside(look[side], picture));
    const boxes = sides.map((side) => boxOfPoints(look[side].joints));
    const together = sides.length === 2 && boxIou(...boxes) > UNION_IOU;
    const asked = (together ? [sides] : sides.map((side) => [side]))
      .map((group) => ({
        group,
        square: squareBox(unionOf(group.map((side) => boxes[sides.indexOf(side)])), CLOSE_FACTOR),
      }))
      .filter(({ square }) => NEAR_ENOUGH * (square[2] - square[0]) < seen[2] - seen[0]);
    const closer = await this.lookAtBoxes(picture, asked.map(({ square }) => square));
    const best = [...look];
    asked.forEach(({ group }, i) => {
      for (const side of group) best[side] = this.newer(best[side], closer[i][side]);
    });
    return best;
  }

  /**
   * Look upright at every hand of each look, at several sizes; once more at those that were found elsewhere
   * than their crops were aimed.
   *
   * Sides may change unless they are sure: each hand is also looked at as one of the other side, at one size
   * and, where it changes, at every size. A hand that is alone takes the side that both looks find likelier;
   * two hands exchange sides where they clearly should.
   */
  async lookUpright(picture, looks, sure) {
    const best = await this.lookUprightOnce(picture, looks, sure);
    const moved = best.map((after, index) => only(sidesOf(after)
      .filter((side) => this.offAim(looks[index], after[side]))
      .map((side) => [side, after[side]])));
    const again = await this.lookUprightOnce(picture, moved, moved.map(() => true));
    return best.map((look, index) => look.map((hand, side) => again[index][side] ?? hand));
  }

  async lookUprightOnce(picture, looks, sure) {
    const { MIDDLE, UPRIGHT_FACTORS } = this.constants;
    const flip = [-1, 0, this.size - 1, 0, 1, 0];
    const asked = looks.flatMap((look, index) => sidesOf(look).flatMap((side) => {
      const cuts = uprightAffines(look[side].joints, side === 1, this.size, UPRIGHT_FACTORS)
        .map((map) => ({ crop: warp(picture, map, this.size), map }));
      const own = { index, side, as: side, now: cuts };
      if (sure[index]) return [own];
      const turned = cuts.map(({ crop, map }) => // the same hand, mirrored
        ({ crop: mirrorCrop(crop, this.size), map: compose(flip, map) }));
      const later = turned.filter((_, i) => i !== MIDDLE);
      return [own, { index, side, as: 1 - side, now: [turned[MIDDLE]], later }];
    }));
    // views[index][side][as]: hand `side` of a picture, taken for one of side `as`.
    const views = looks.map(() => [[null, null], [null, null]]);
    const lookNow = async (each) => {
      const now = each.flatMap((one) => one.now);
      const answers = await this.lookAtCrops(now.map(({ crop }) => crop), now.map(({ map }) => map));
      for (const one of each) {
        one.seen = [...(one.seen ?? []), ...answers.splice(0, one.now.length)];
        views[one.index][one.side][one.as] = averaged(one.seen);
      }
    };
    const changes = (index) => !sure[index] && this.shouldChange(views[index], looks[index]);
    await lookNow(asked);
    const changed = looks.map((_, index) => changes(index));
    const again = asked.filter(({ index, later }) => later && changed[index]);
    for (const one of again) one.now = one.later;
    await lookNow(again);
    return looks.map((look, index) => {
      const sides = sidesOf(look);
      const taken = (side, as) => this.newer(look[side], answerOf(views[index][side], as));
      const same = only(sides.map((side) => [side, taken(side, side)]));
      if (!changed[index] || !changes(index)) return same;
      const other = sides.map((side) => [1 - side, taken(side, 1 - side)]);
      return other.some(([side, hand]) => hand === look[1 - side]) ? same : only(other);
    });
  }

  /** Whether the hands of a picture, one or two, should change sides. */
  shouldChange(views, look) {
    const sides = sidesOf(look);
    const leans = sides.map((side) => views[side] // to the right side
      .reduce((sum, view) => sum + logit(view[0].score) - logit(view[1].score), 0));
    if (sides.length === 2) return leans[0] - leans[1] < -this.constants.EXCHANGE;
    return sides.length === 1 && sides[0] !== (leans[0] >= 0 ? 0 : 1);
  }

  /** Whether a look at one hand leaves no doubt of its side. */
  sureOfSide(look) {
    return Math.abs(logit(look[0].score) - logit(look[1].score)) > this.constants.SURE_SIDE;
  }

  /** The later of two looks at a hand, unless it is much less sure of it. */
  newer(before, after) {
    return after.score >= this.constants.COMPARABLE * before.score ? after : before;
  }

  /** Whether a hand has an extent and some of it is in the picture. */
  inside(hand, { width, height }) {
    const [x0, y0, x1, y1] = handBox(hand.joints, width, height, this.constants.HAND_MARGIN);
    return x1 > x0 && y1 > y0;
  }

  /** Drops the less likely of two hands that are one; by falling score. */
  withoutDoubles(hands) {
    const kept = [];
    for (const [side, hand] of [...hands].sort((p, q) => q[1].score - p[1].score)) {
      if (!kept.some(([, other]) => this.sameHand(hand, other))) kept.push([side, hand]);
    }
    return kept;
  }

  sameHand(one, other) {
    return apart(one, other) <= this.constants.SAME_HAND * Math.max(longest(one), longest(other));
  }

  /** Whether a hand lies elsewhere than the joints that its upright crop was aimed by. */
  offAim(aims, found) {
    const nearest = Math.min(...sidesOf(aims).map((side) => apart(aims[side], found)));
    return nearest > this.constants.OFF_AIM * longest(found);
  }
}

/** Mean distance of the joints of two hands in pixels. */
const apart = (one, other) =>
  mean(one.joints.map(([u, v], i) => Math.hypot(u - other.joints[i][0], v - other.joints[i][1])));

/** Longer side of the box of a hand's joints in pixels. */
function longest({ joints }) {
  const [x0, y0, x1, y1] = extent(joints);
  return Math.max(x1 - x0, y1 - y0);
}

/** Crops as the network takes them: a plane for each colour, 0..1. */
export function planes(crops, size) {
  const area = size * size;
  const values = new Float32Array(crops.length * 3 * area);
  crops.forEach((crop, i) => {
    for (let k = 0; k < 3; k++) {
      const to = (i * 3 + k) * area;
      for (let at = 0; at < area; at++) values[to + at] = crop[at * 3 + k] / 255;
    }
  });
  return values;
}

function readLook({ joints_25d: joints, joint_logits: jointLogits, present_logits: present }, i, map) {
  const look = [null, null];
  for (let slot = 0; slot < 2; slot++) {
    const first = (i * 2 + slot) * JOINTS;
    const seen = Array.from({ length: JOINTS }, (_, k) =>
      Array.from(joints.subarray((first + k) * 3, (first + k + 1) * 3)));
    look[isMirrored(map) ? 1 - slot : slot] = {
      joints: jointsToPicture(seen, map),
      jointScores: Array.from(jointLogits.subarray(first, first + JOINTS), sigmoid),
      score: sigmoid(present[i * 2 + slot]),
    };
  }
  return look;
}

function averaged(looks) {
  return [0, 1].map((side) => {
    const hands = looks.map((look) => look[side]);
    return {
      joints: hands[0].joints.map((joint, k) => joint.map((_, axis) => mean(hands.map((h) => h.joints[k][axis])))),
      jointScores: hands[0].jointScores.map((_, k) => mean(hands.map((h) => h.jointScores[k]))),
      score: mean(hands.map((h) => h.score)),
    };
  });
}

/** The hand of a side, from the look meant for that side; its score is the mean of all looks at it. */
function answerOf(views, side) {
  return { ...views[side][side], score: mean(views.filter(Boolean).map((view) => view[side].score)) };
}
