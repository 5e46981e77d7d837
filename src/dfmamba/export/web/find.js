// Which looks are taken at a picture and which hands are kept, as in dfmamba/predict/find.py; and the
// following of hands through a film.

import {
  boxIou, boxOfPoints, mergeOverlapping, pictureSquare, squareBox, uprightAffines,
} from './affine.js';
import { only, sidesOf } from './looks.js';

/** At most one right and one left hand: the network itself looks at the whole picture. */
export async function findInPicture(looker, picture, threshold) {
  const least = looker.constants.FIRST_LOOK * threshold;
  const seen = (look, least) => looker.withoutDoubles(
    sidesOf(look)
      .filter((side) => look[side].score >= least && looker.inside(look[side], picture))
      .map((side) => [side, look[side]]),
  );
  const square = pictureSquare(picture.width, picture.height);
  const [whole] = await looker.lookAtBoxes(picture, [square]);
  const closer = await looker.lookCloser(picture, whole, square, least);
  const [upright] = await looker.lookUpright(picture, [only(seen(closer, least))], [looker.sureOfSide(closer)]);
  return seen(upright, threshold);
}

/** The hands at detections {box, score}: one at each, or up to two where detections overlap. */
export async function findAtDetections(looker, picture, detections, threshold) {
  const { UNION_IOU, CLOSE_FACTOR, FIRST_LOOK, OWN_IOU } = looker.constants;
  const sure = detections.filter(({ score }) => score >= threshold);
  const covers = (region, box) =>
    region[0] <= box[0] && region[1] <= box[1] && region[2] >= box[2] && region[3] >= box[3];
  const places = mergeOverlapping(sure.map(({ box }) => box), UNION_IOU).map((region) => ({
    region,
    own: sure.filter(({ box }) => covers(region, box)),
  }));
  const overlap = (detection, hand) => boxIou(detection.box, boxOfPoints(hand.joints));
  const ofDetections = (look, own) => {
    const theirs = sidesOf(look)
      .map((side) => [side, look[side]])
      .filter(([, hand]) => looker.inside(hand, picture)
        && Math.max(...own.map((one) => overlap(one, hand))) > OWN_IOU)
      .sort((p, q) => q[1].score - p[1].score);
    return only(looker.withoutDoubles(theirs.filter(([, hand], i) =>
      i === 0 || (i < own.length && hand.score >= FIRST_LOOK * threshold))));
  };
  const looks = await looker.lookAtBoxes(picture, places.map(({ region }) => squareBox(region, CLOSE_FACTOR)));
  let worth = looks.map((look, i) => ofDetections(look, places[i].own));
  const again = await looker.lookUpright(picture, worth, looks.map((look) => looker.sureOfSide(look)));
  worth = again.map((look, i) => (sidesOf(worth[i]).length ? ofDetections(look, places[i].own) : look));
  return looker.withoutDoubles(worth.flatMap((look, i) => sidesOf(look).map((side) => {
    const best = places[i].own
      .map((one) => [overlap(one, look[side]), one.score])
      .sort((p, q) => q[0] - p[0] || q[1] - p[1])[0];
    return [side, { ...look[side], score: best[1] }];
  })));
}

/**
 * The hands of the picture before, in this one: one upright look at each, aimed by where it was.
 *
 * Hands that score below the threshold are lost. Sides stay; new hands are not found.
 */
export async function follow(looker, picture, hands, threshold) {
  const factor = looker.constants.UPRIGHT_FACTORS[looker.constants.MIDDLE];
  const maps = hands.map(([side, { joints }]) =>
    uprightAffines(joints, side === 1, looker.size, [factor])[0]);
  const looks = await looker.look(picture, maps);
  return looker.withoutDoubles(
    hands
      .map(([side, { track }], i) => [side, { ...looks[i][side], track }])
      .filter(([, hand]) => hand.score >= threshold && looker.inside(hand, picture)),
  );
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
