// How a picture is looked at, as in dfmamba/predict/looking.py, and how hands are followed through a film.
//
// A view is [right, left]; each is a hand {joints: 21 of [u, v, d] in pixels of the picture, jointScores,
// score} or null. Hands of a picture are pairs [side, hand], side 0 right and 1 left.

import {
  boxIou, boxOfPoints, compose, cropAffine, extent, isMirrored, mergeOverlapping, pictureSquare, squareBox,
  unionOf, uprightAffine,
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

/** The sides that a view shows. */
const sidesOf = (view) => [0, 1].filter((side) => view[side]);

const viewOf = (hands) => {
  const view = [null, null];
  for (const [side, hand] of hands) view[side] = hand;
  return view;
};

/** The pose network on crops of pictures. */
export class CropNetwork {
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

  /** One view of the picture through each map from its pixels to those of the crop. */
  see(picture, maps) {
    return this.seeCrops(maps.map((map) => warp(picture, map, this.size)), maps);
  }

  /** One view of each crop (size * size * 3 bytes), cut by its map from the pixels of the picture. */
  async seeCrops(crops, maps) {
    const views = [];
    const most = this.constants.batch_size;
    for (let start = 0; start < crops.length; start += most) {
      const part = crops.slice(start, start + most);
      const output = await this.run(planes(part, this.size), part.length);
      part.forEach((_, i) => views.push(readView(output, i, maps[start + i])));
    }
    return views;
  }

  /** One straight view of each square region. */
  seeSquares(picture, squares) {
    return this.see(picture, squares.map((square) => cropAffine(square, this.size)));
  }

  /**
   * A straight view around each hand above the threshold; of both together where they overlap. A view of a
   * square that saw hardly more than the closer one would stays.
   */
  async seeCloser(picture, view, seen, threshold) {
    const { UNION_IOU, CLOSE_FACTOR, NEAR_ENOUGH } = this.constants;
    const sides = sidesOf(view).filter((side) =>
      view[side].score >= threshold && this.inside(view[side], picture));
    const boxes = sides.map((side) => boxOfPoints(view[side].joints));
    const together = sides.length === 2 && boxIou(...boxes) > UNION_IOU;
    const places = (together ? [sides] : sides.map((side) => [side]))
      .map((group) => ({
        group,
        square: squareBox(unionOf(group.map((side) => boxes[sides.indexOf(side)])), CLOSE_FACTOR),
      }))
      .filter(({ square }) => NEAR_ENOUGH * (square[2] - square[0]) < seen[2] - seen[0]);
    const closer = await this.seeSquares(picture, places.map(({ square }) => square));
    const best = [...view];
    places.forEach(({ group }, i) => {
      for (const side of group) best[side] = closer[i][side];
    });
    return best;
  }

  /**
   * One upright view of each hand of each view, and, where its side isn't sure, one as the other side. A hand
   * that is alone takes the side that both find likelier; two hands exchange sides where they clearly should.
   * Joints are those of the upright view meant for the side, the score is the mean of both views.
   */
  async seeUpright(picture, views, sure) {
    const flip = [-1, 0, this.size - 1, 0, 1, 0];
    const places = views.flatMap((view, index) => sidesOf(view).flatMap((side) => {
      const map = uprightAffine(view[side].joints, side === 1, this.size, this.constants.AIM_FACTOR);
      const crop = warp(picture, map, this.size);
      const own = { index, side, as: side, crop, map };
      if (sure[index]) return [own];
      return [own, { index, side, as: 1 - side, crop: mirrorCrop(crop, this.size), map: compose(flip, map) }];
    }));
    const answers = await this.seeCrops(places.map(({ crop }) => crop), places.map(({ map }) => map));
    // seen[index][side][as]: hand `side` of a view, taken for one of side `as`.
    const seen = views.map(() => [[null, null], [null, null]]);
    places.forEach(({ index, side, as }, i) => { seen[index][side][as] = answers[i]; });
    return views.map((view, index) => {
      const change = !sure[index] && this.otherSide(seen[index], view);
      return viewOf(sidesOf(view).map((side) => {
        const as = change ? 1 - side : side;
        const scores = seen[index][side].filter(Boolean).map((each) => each[as].score);
        return [as, { ...seen[index][side][as][as], score: mean(scores) }];
      }));
    });
  }

  /** Whether the hands of a picture, one or two, should change sides. */
  otherSide(views, found) {
    const sides = sidesOf(found);
    const leans = sides.map((side) => views[side] // to the right side
      .reduce((sum, view) => sum + logit(view[0].score) - logit(view[1].score), 0));
    if (sides.length === 2) return leans[0] - leans[1] < -this.constants.EXCHANGE;
    return sides.length === 1 && sides[0] !== (leans[0] >= 0 ? 0 : 1);
  }

  /** Whether a view of one hand leaves no doubt of its side. */
  sureOfSide(view) {
    return Math.abs(logit(view[0].score) - logit(view[1].score)) > this.constants.SURE_SIDE;
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

function readView({ joints_25d: joints, joint_logits: jointLogits, present_logits: present }, i, map) {
  const view = [null, null];
  for (let slot = 0; slot < 2; slot++) {
    const first = (i * 2 + slot) * JOINTS;
    const seen = Array.from({ length: JOINTS }, (_, k) =>
      Array.from(joints.subarray((first + k) * 3, (first + k + 1) * 3)));
    view[isMirrored(map) ? 1 - slot : slot] = {
      joints: jointsToPicture(seen, map),
      jointScores: Array.from(jointLogits.subarray(first, first + JOINTS), sigmoid),
      score: sigmoid(present[i * 2 + slot]),
    };
  }
  return view;
}

/** The hands of an upright view, with the mean of both views' scores. */
function both(straight, upright) {
  return upright.map((hand, side) =>
    (hand && straight[side] ? { ...hand, score: (hand.score + straight[side].score) / 2 } : hand));
}

/** At most one right and one left hand: the network itself looks at the whole picture. */
export async function findInPicture(network, picture, threshold) {
  const least = network.constants.FIRST_LOOK * threshold;
  const shown = (view, least) => network.withoutDoubles(
    sidesOf(view)
      .filter((side) => view[side].score >= least && network.inside(view[side], picture))
      .map((side) => [side, view[side]]),
  );
  const square = pictureSquare(picture.width, picture.height);
  const [whole] = await network.seeSquares(picture, [square]);
  const closer = await network.seeCloser(picture, whole, square, least);
  const worth = viewOf(shown(closer, least));
  const [upright] = await network.seeUpright(picture, [worth], [network.sureOfSide(closer)]);
  return shown(both(worth, upright), threshold);
}

/** The hands at detections {box, score}: one at each, or up to two where detections overlap. */
export async function findAtDetections(network, picture, detections, threshold) {
  const { UNION_IOU, CLOSE_FACTOR, FIRST_LOOK, OWN_IOU } = network.constants;
  const sure = detections.filter(({ score }) => score >= threshold);
  const covers = (region, box) =>
    region[0] <= box[0] && region[1] <= box[1] && region[2] >= box[2] && region[3] >= box[3];
  const places = mergeOverlapping(sure.map(({ box }) => box), UNION_IOU).map((region) => ({
    region,
    own: sure.filter(({ box }) => covers(region, box)),
  }));
  const overlap = (detection, hand) => boxIou(detection.box, boxOfPoints(hand.joints));
  const ofDetections = (view, own) => {
    const theirs = sidesOf(view)
      .map((side) => [side, view[side]])
      .filter(([, hand]) => network.inside(hand, picture)
        && Math.max(...own.map((one) => overlap(one, hand))) > OWN_IOU)
      .sort((p, q) => q[1].score - p[1].score);
    return viewOf(network.withoutDoubles(theirs.filter(([, hand], i) =>
      i === 0 || (i < own.length && hand.score >= FIRST_LOOK * threshold))));
  };
  const straight = await network.seeSquares(picture, places.map(({ region }) => squareBox(region, CLOSE_FACTOR)));
  let worth = straight.map((view, i) => ofDetections(view, places[i].own));
  const upright = await network.seeUpright(picture, worth, straight.map((view) => network.sureOfSide(view)));
  worth = upright.map((view, i) => (sidesOf(worth[i]).length ? ofDetections(both(worth[i], view), places[i].own) : view));
  return network.withoutDoubles(worth.flatMap((view, i) => sidesOf(view).map((side) => {
    const best = places[i].own
      .map((one) => [overlap(one, view[side]), one.score])
      .sort((p, q) => q[0] - p[0] || q[1] - p[1])[0];
    return [side, { ...view[side], score: best[1] }];
  })));
}

/**
 * The hands of the picture before, in this one: one upright view of each, aimed by where it was.
 *
 * Hands that score below the threshold are lost. Sides stay; new hands are not found.
 */
export async function follow(network, picture, hands, threshold) {
  const maps = hands.map(([side, { joints }]) =>
    uprightAffine(joints, side === 1, network.size, network.constants.AIM_FACTOR));
  const views = await network.see(picture, maps);
  return network.withoutDoubles(
    hands
      .map(([side, { track }], i) => [side, { ...views[i][side], track }])
      .filter(([, hand], i) => hand.score >= threshold && network.inside(hand, picture)
        && isFollowed(hands[i][1], hand, network.constants)),
  );
}

/** Whether a view shows the hand that it was aimed at: as in dfmamba/predict/track.py. */
function isFollowed(before, now, { COLLAPSED, NEAR }) {
  return mean(now.jointScores) >= COLLAPSED && apart(before, now) <= NEAR * Math.max(longest(before), longest(now), 1);
}

/** Gives each hand the number of the hand of the picture before that it overlaps most, else a new one. */
export function numbered(hands, before, next) {
  const pairs = hands.flatMap(([, hand], i) => before.map(([, old]) => ({
    i, track: old.track, iou: boxIou(boxOfPoints(hand.joints), boxOfPoints(old.joints)),
  }))).filter(({ iou }) => iou > 0.1).sort((p, q) => q.iou - p.iou);
  const tracks = new Map();
  for (const { i, track } of pairs) {
    if (!tracks.has(i) && ![...tracks.values()].includes(track)) tracks.set(i, track);
  }
  return hands.map(([side, hand], i) => [side, { ...hand, track: tracks.get(i) ?? next() }]);
}
