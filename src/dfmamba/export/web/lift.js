// From 2.5D joints of a crop to pixels and millimetres, as in dfmamba/predict/lift.py and
// dfmamba/hands/camera.py. No intrinsics: joints are relative to the wrist, of the reference hand's size.

import { apply, extent, inverse, scaleOf } from './affine.js';

/** Joints [u, v, d] of a crop in pixels of the picture. */
export function jointsToPicture(joints, map) {
  const back = inverse(map);
  const scale = scaleOf(map);
  return joints.map(([u, v, d]) => [...apply(back, u, v), d / scale]);
}

function median(values) {
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The factor that gives a hand the size of the reference hand: robust least squares over its bones. */
export function scaleToReference(joints, { bones, reference_bones_mm: reference }) {
  const lengths = bones.map(([p, q]) => Math.hypot(...[0, 1, 2].map((k) => joints[q][k] - joints[p][k])));
  if (!lengths.some((length) => length > 0)) return 1;
  let weights = lengths.map(() => 1);
  let factor = 1;
  for (let round = 0; round < 5; round++) {
    let [above, below] = [0, 0];
    lengths.forEach((length, i) => {
      above += weights[i] * length * reference[i];
      below += weights[i] * length * length;
    });
    factor = above / below;
    const residual = lengths.map((length, i) => Math.abs(factor * length - reference[i]));
    const bound = Math.max(1.5 * median(residual), 1e-9);
    weights = residual.map((value) => bound / Math.max(value, bound));
  }
  return factor;
}

/** 2.5D joints in pixels to millimetres relative to the wrist: x right, y down, z forward. */
export function liftJoints(joints, constants) {
  const moved = joints.map((joint) => joint.map((value, k) => value - joints[0][k]));
  const factor = scaleToReference(moved, constants);
  return moved.map((joint) => joint.map((value) => value * factor));
}

/** Box of a hand's joints with the margin, clipped to the picture. */
export function handBox(joints, width, height, margin) {
  const [x0, y0, x1, y1] = extent(joints);
  const wider = margin * Math.max(x1 - x0, y1 - y0);
  const inX = (x) => Math.min(Math.max(x, -0.5), width - 0.5);
  const inY = (y) => Math.min(Math.max(y, -0.5), height - 0.5);
  return [inX(x0 - wider), inY(y0 - wider), inX(x1 + wider), inY(y1 + wider)];
}
