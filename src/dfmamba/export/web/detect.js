// Boxes around hands from the detector's maps, as dfmamba/detect/decode.py reads them.

import { boxIou, cropAffine, inverse, pictureSquare, squareBox } from './affine.js';
import { planes } from './looking.js';
import { warp } from './warp.js';

/**
 * The hands of a picture.
 *
 * A look at the whole picture, then one around each hand, as dfmamba/detect/network.py takes them.
 *
 * @param run the detector: Float32Array of 3 * size * size to its map (5, cells, cells), flat: logit of the
 *   score, centre from the cell's and logarithms of width and height, in cells.
 * @param settings size, stride, least and most_sure (scores), iou, most (before suppression), and of the second
 *   look worth, most_again, again_factor, same, unseen.
 * @returns [{box, score}] in pixels of the picture, by falling score.
 */
export async function detect(run, picture, settings) {
  const first = await look(run, picture, pictureSquare(picture.width, picture.height), settings);
  const found = [];
  for (const one of first.filter(({ score }) => score >= settings.worth).slice(0, settings.most_again)) {
    const near = await look(run, picture, squareBox(one.box, settings.again_factor), settings);
    found.push(confirmed(one, near, settings));
  }
  return suppress(found, settings.iou);
}

/** A hand of the first look after the second one, which shows `near`. */
export function confirmed(first, near, { same, unseen }) {
  const best = near.filter(({ box }) => boxIou(first.box, box) > same).sort((p, q) => q.score - p.score)[0];
  const { box, score } = best ?? { box: first.box, score: unseen };
  const logit = (Math.log(first.score / (1 - first.score)) + Math.log(score / (1 - score))) / 2;
  return { box, score: 1 / (1 + Math.exp(-logit)) };
}

/** The likelier of any two detections whose boxes overlap more than `iou`, by falling score. */
function suppress(found, iou) {
  const kept = [];
  for (const one of found.sort((p, q) => q.score - p.score)) {
    if (kept.every((other) => boxIou(one.box, other.box) <= iou)) kept.push(one);
  }
  return kept;
}

async function look(run, picture, square, settings) {
  const map = cropAffine(square, settings.size);
  const maps = await run(planes([warp(picture, map, settings.size)], settings.size));
  const [zoom, , tx, , , ty] = inverse(map);
  return decode(maps, settings).map(({ box: [x0, y0, x1, y1], score }) => ({
    box: [zoom * x0 + tx, zoom * y0 + ty, zoom * x1 + tx, zoom * y1 + ty],
    score,
  }));
}

/** Local maxima of the score, as boxes of the detector's square picture, without overlapping ones. */
export function decode(maps, { size, stride, least, iou, most, most_sure }) {
  const cells = size / stride;
  const area = cells * cells;
  const found = [];
  for (let y = 0; y < cells; y++) {
    for (let x = 0; x < cells; x++) {
      const at = y * cells + x;
      const score = Math.min(1 / (1 + Math.exp(-maps[at])), most_sure);
      if (score < least || !isPeak(maps, x, y, cells)) continue;
      const [dx, dy, w, h] = [1, 2, 3, 4].map((k) => maps[k * area + at]);
      const [u, v] = [(x + 0.5 + dx) * stride - 0.5, (y + 0.5 + dy) * stride - 0.5];
      const [wide, high] = [w, h].map((side) => (Math.exp(Math.min(side, 8)) * stride) / 2);
      found.push({ box: [u - wide, v - high, u + wide, v + high], score });
    }
  }
  return suppress(found.sort((p, q) => q.score - p.score).slice(0, most), iou);
}

function isPeak(maps, x, y, cells) {
  for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, cells - 1); v++) {
    for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, cells - 1); u++) {
      if (maps[v * cells + u] > maps[y * cells + x]) return false;
    }
  }
  return true;
}
