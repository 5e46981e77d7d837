// Boxes and affine maps, as in dfmamba/hands/affine.py and dfmamba/hands/upright.py.
//
// A map is [a, b, tx, c, d, ty]: x' = a x + b y + tx, y' = c x + d y + ty. Points are [x, y]; pixel centres
// lie at integers. Boxes are [x0, y0, x1, y1].

const KNUCKLES = [5, 9, 13, 17];

const determinant = ([a, b, , c, d]) => a * d - b * c;

/** Crop pixels per picture pixel. */
export const scaleOf = (map) => Math.sqrt(Math.abs(determinant(map)));

export const isMirrored = (map) => determinant(map) < 0;

export const apply = ([a, b, tx, c, d, ty], x, y) => [a * x + b * y + tx, c * x + d * y + ty];

export function inverse(map) {
  const k = 1 / determinant(map);
  const [a, b, c, d] = [map[4] * k, -map[1] * k, -map[3] * k, map[0] * k];
  return [a, b, -a * map[2] - b * map[5], c, d, -c * map[2] - d * map[5]];
}

/** The map that does `first` and then `second`. */
export function compose(second, first) {
  const [a, b, tx, c, d, ty] = second;
  const [e, f, ux, g, h, uy] = first;
  return [
    a * e + b * g, a * f + b * h, a * ux + b * uy + tx,
    c * e + d * g, c * f + d * h, c * ux + d * uy + ty,
  ];
}

/** Lowest and highest coordinates of points [x, y, ...]. */
export function extent(points) {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of points) {
    box[0] = Math.min(box[0], x);
    box[1] = Math.min(box[1], y);
    box[2] = Math.max(box[2], x);
    box[3] = Math.max(box[3], y);
  }
  return box;
}

/** Tight box of points, in single precision as Python has it. */
export const boxOfPoints = (points) => extent(points).map(Math.fround);

/** The square with the same centre and `factor` times the longer side. */
export function squareBox([x0, y0, x1, y1], factor = 1) {
  const half = (factor * Math.max(x1 - x0, y1 - y0)) / 2;
  if (!(half > 0)) throw new RangeError(`the box ${[x0, y0, x1, y1]} has no extent`);
  const [x, y] = [(x0 + x1) / 2, (y0 + y1) / 2];
  return [x - half, y - half, x + half, y + half];
}

/** The smallest square about the middle of a picture that holds all of it. */
export const pictureSquare = (width, height) => squareBox([-0.5, -0.5, width - 0.5, height - 0.5]);

export function boxIou(p, q) {
  const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
  const wide = Math.max(Math.min(p[2], q[2]) - Math.max(p[0], q[0]), 0);
  const high = Math.max(Math.min(p[3], q[3]) - Math.max(p[1], q[1]), 0);
  const union = area(p) + area(q) - wide * high;
  return union > 0 ? (wide * high) / union : 0;
}

/** One box around all boxes. */
export const unionOf = (boxes) => extent(boxes.flatMap(([x0, y0, x1, y1]) => [[x0, y0], [x1, y1]]));

/** One box around those that overlap more than this. */
export function mergeOverlapping(boxes, iou) {
  const merged = [...boxes];
  for (let changed = true; changed; ) {
    changed = false;
    search: for (let i = 0; i < merged.length; i++) {
      for (let j = i + 1; j < merged.length; j++) {
        if (boxIou(merged[i], merged[j]) > iou) {
          merged[i] = unionOf([merged[i], merged.splice(j, 1)[0]]);
          changed = true;
          break search;
        }
      }
    }
  }
  return merged;
}

/** The map that makes a picture of size x size pixels of a square box. */
export function cropAffine([x0, y0, x1, y1], size) {
  const zoom = size / Math.max(x1 - x0, y1 - y0);
  const middle = (size - 1) / 2;
  return [zoom, 0, middle - (zoom * (x0 + x1)) / 2, 0, zoom, middle - (zoom * (y0 + y1)) / 2];
}

/** The upright crop of one hand, fingers up, as a right hand; the map from the picture to the crop. */
export function uprightAffine(joints, left, size, factor) {
  let [x, y] = [0, 0];
  for (const k of KNUCKLES) {
    x += joints[k][0] / KNUCKLES.length;
    y += joints[k][1] / KNUCKLES.length;
  }
  const angle = Math.atan2(x - joints[0][0], -(y - joints[0][1]));
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const [x0, y0, x1, y1] = extent(joints.map(([u, v]) => [cos * u + sin * v, cos * v - sin * u]));
  const [mx, my] = [(x0 + x1) / 2, (y0 + y1) / 2];
  const zoom = (factor * Math.max(x1 - x0, y1 - y0, 1)) / size;
  const mirror = left ? -zoom : zoom;
  const [a, b, c, d] = [cos * mirror, -sin * zoom, sin * mirror, cos * zoom];
  const middle = (size - 1) / 2;
  const tx = cos * mx - sin * my - (a + b) * middle;
  const ty = sin * mx + cos * my - (c + d) * middle;
  return inverse([a, b, tx, c, d, ty]);
}
