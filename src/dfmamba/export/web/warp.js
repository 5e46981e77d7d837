// Resampling, bit for bit as dfmamba/hands/crop.py: warp_image does it (with Pillow's arithmetic).

import { apply, inverse, scaleOf } from './affine.js';

const clip = (value, low, high) => Math.min(Math.max(value, low), high);

/** Rounded mean of a block's sum, in the fixed-point form in which Pillow divides. */
function divider(count) {
  const multiplier = Math.floor(2 ** 24 / count);
  const half = Math.floor(count / 2);
  return (sum) => Math.floor(((sum + half) * multiplier) / 2 ** 24);
}

/**
 * Pixels of a part of a picture: {data, pitch, x, y}, four bytes each, pitch of them a row, the first at (x, y).
 * Only what is looked at is read from pictures that have `read(x, y, width, height)`.
 */
function pixelsOf(picture, low, high) {
  if (!picture.read) return { data: picture.data, pitch: picture.width, x: 0, y: 0 };
  const [x, y] = low;
  const pitch = high[0] - x;
  return { data: picture.read(x, y, pitch, high[1] - y), pitch, x, y };
}

/** Part of a picture, averaged over blocks of step x step pixels: RGB, three numbers a pixel. */
function shrink(picture, low, high, step) {
  const { data, pitch, x: x0, y: y0 } = pixelsOf(picture, low, high);
  const width = Math.ceil((high[0] - low[0]) / step);
  const height = Math.ceil((high[1] - low[1]) / step);
  const out = new Uint8Array(width * height * 3);
  for (let y = 0, to = 0; y < height; y++) {
    const top = low[1] + y * step;
    const bottom = Math.min(top + step, high[1]);
    for (let x = 0; x < width; x++, to += 3) {
      const left = low[0] + x * step;
      const right = Math.min(left + step, high[0]);
      const mean = divider((bottom - top) * (right - left));
      let [r, g, b] = [0, 0, 0];
      for (let v = top; v < bottom; v++) {
        const row = (v - y0) * pitch - x0;
        for (let at = (row + left) * 4, end = (row + right) * 4; at < end; at += 4) {
          r += data[at];
          g += data[at + 1];
          b += data[at + 2];
        }
      }
      out[to] = mean(r);
      out[to + 1] = mean(g);
      out[to + 2] = mean(b);
    }
  }
  return { data: out, width, height };
}

/**
 * A square crop. Bilinear; where the map shrinks by two or more, whole pixels are averaged first. Black
 * outside the picture.
 *
 * @param picture {data, width, height}: four bytes a pixel, of which the fourth is not looked at; or {read,
 *   width, height}.
 * @param map from pixels of the picture to pixels of the crop.
 * @param size side of the crop.
 * @returns Uint8Array of size * size * 3.
 */
export function warp(picture, map, size) {
  const back = inverse(map);
  const far = Math.max(picture.width, picture.height) + 4;
  const ends = [-0.5, size - 0.5];
  const corners = ends.flatMap((y) => ends.map((x) => apply(back, x, y).map((value) => clip(value, -4, far))));
  const step = Math.max(1, Math.floor(scaleOf(back) + 1e-6));
  const limit = [picture.width, picture.height];
  const low = [0, 1].map((k) =>
    Math.max(Math.floor(Math.min(...corners.map((corner) => corner[k])) + 0.5) - step - 1, 0))
    .map((value) => value - (value % step)); // the same blocks for crops a fraction of a pixel apart
  const high = [0, 1].map((k) =>
    Math.min(Math.ceil(Math.max(...corners.map((corner) => corner[k])) + 0.5) + step + 1, limit[k]));
  const out = new Uint8Array(size * size * 3);
  if (low[0] >= high[0] || low[1] >= high[1]) return out;

  const { data, width, height } = shrink(picture, low, high, step);
  const [a, b, c, d] = [back[0], back[1], back[3], back[4]].map((value) => value / step);
  // Coordinates from here on count from the picture's corner.
  const tx = (back[2] + 0.5 - low[0]) / step - (a + b) * 0.5;
  const ty = (back[5] + 0.5 - low[1]) / step - (c + d) * 0.5;
  for (let v = 0, to = 0; v < size; v++) {
    for (let u = 0; u < size; u++, to += 3) {
      const x = a * (u + 0.5) + b * (v + 0.5) + tx;
      const y = c * (u + 0.5) + d * (v + 0.5) + ty;
      if (!(x >= 0 && x < width && y >= 0 && y < height)) continue;
      const x0 = Math.floor(x - 0.5);
      const y0 = Math.floor(y - 0.5);
      const dx = x - 0.5 - x0;
      const dy = y - 0.5 - y0;
      const left = clip(x0, 0, width - 1) * 3;
      const right = clip(x0 + 1, 0, width - 1) * 3;
      const upper = clip(y0, 0, height - 1) * width * 3;
      const lower = clip(y0 + 1, 0, height - 1) * width * 3;
      for (let k = 0; k < 3; k++) {
        const p = data[upper + left + k];
        const q = data[lower + left + k];
        const above = p + (data[upper + right + k] - p) * dx;
        const below = q + (data[lower + right + k] - q) * dx;
        out[to + k] = above + (below - above) * dy;
      }
    }
  }
  return out;
}

/** A crop, mirrored left to right. */
export function mirrorCrop(crop, size) {
  const out = new Uint8Array(crop.length);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const from = (y * size + size - 1 - x) * 3;
      const to = (y * size + x) * 3;
      out[to] = crop[from];
      out[to + 1] = crop[from + 1];
      out[to + 2] = crop[from + 2];
    }
  }
  return out;
}
