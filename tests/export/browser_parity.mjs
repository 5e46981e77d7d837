// Runs the page's modules outside a browser: JSON job on standard input, answers on standard output.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const job = JSON.parse(readFileSync(0));
const load = (name) => import(pathToFileURL(join(job.web, name)).href);
const { compose, cropAffine, inverse, mergeOverlapping, pictureSquare, squareBox, uprightAffine } =
  await load('affine.js');
const { warp } = await load('warp.js');
const { liftJoints } = await load('lift.js');
const { decode } = await load('detect.js');
const { findAtDetections } = await load('looking.js');
const { Predictor, toPrediction, toJson } = await load('predictor.js');

const pictureOf = ({ data, width, height }) => ({ data: Buffer.from(data, 'base64'), width, height });

/** The same made-up network as the test's `_Made`. */
async function made(values, count) {
  const area = job.settings.image_size ** 2;
  const answer = { joints_25d: [], joint_logits: [], present_logits: [] };
  for (let i = 0; i < count; i++) {
    const [r, g, b] = [0, 1, 2].map((k) =>
      values.subarray((i * 3 + k) * area, (i * 3 + k + 1) * area).reduce((sum, v) => sum + v, 0) / area);
    for (let slot = 0; slot < 2; slot++) {
      for (let j = 0; j < 21; j++) {
        answer.joints_25d.push(
          32 + 20 * Math.cos(j + slot) * (0.5 + r), 32 + 20 * Math.sin(1.3 * j + slot) * (0.5 + g), 0.3 * b * j);
        answer.joint_logits.push(j / 10 - r);
      }
      answer.present_logits.push(slot ? 3 * g : 3 * r - 0.2);
    }
  }
  return Object.fromEntries(Object.entries(answer).map(([name, list]) => [name, Float32Array.from(list)]));
}

const actions = {
  affine: ({ box, size, joints, left, factor, map }) => ({
    crop: cropAffine(squareBox(box, 1.4), size),
    upright: uprightAffine(joints, left, size, factor),
    inverse: inverse(map),
    twice: compose(map, map),
    square: pictureSquare(...size ? [size, size + 7] : []),
  }),
  merge: ({ boxes, iou }) => mergeOverlapping(boxes, iou),
  warp: ({ picture, map, size }) => Buffer.from(warp(pictureOf(picture), map, size)).toString('base64'),
  lift: ({ joints }) => liftJoints(joints, job.settings),
  decode: ({ maps, settings }) => decode(Float32Array.from(maps), settings),
  predict: ({ picture }) => new Predictor(job.settings, made).predict(pictureOf(picture), { threshold: 0.5 }),
  at: async ({ picture, detections }) => {
    const { network } = new Predictor(job.settings, made);
    const hands = await findAtDetections(network, pictureOf(picture), detections, 0.5);
    return JSON.parse(toJson(toPrediction(hands, picture, job.settings, null)));
  },
  film: async ({ picture, times, threshold = 0.5 }) => {
    const predictor = new Predictor(job.settings, made);
    let views = 0;
    predictor.network.run = async (values, count) => {
      views += count;
      return made(values, count);
    };
    const seen = [];
    for (const time of times) {
      const { hands } = await predictor.predictNext(pictureOf(picture), time, { threshold });
      seen.push({ tracks: hands.map(({ track }) => track), sides: hands.map(({ side }) => side), views });
      views = 0;
    }
    return seen;
  },
};

const answers = [];
for (const [name, values] of job.jobs) answers.push(await actions[name](values));
process.stdout.write(JSON.stringify(answers));
