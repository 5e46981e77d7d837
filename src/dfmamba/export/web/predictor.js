// From a picture to hands: onnxruntime-web, the views of the picture, and results in the schema of `dfmamba predict`.

import { detect } from './detect.js';
import { handBox, liftJoints } from './lift.js';
import { CropNetwork, findAtDetections, findInPicture, follow, numbered } from './looking.js';

const SIDES = ['right', 'left'];

export class Predictor {
  /**
   * @param constants the exported settings.json.
   * @param pose runs the pose model, see CropNetwork.
   * @param finder runs the detector on one picture (Float32Array of 3 * size * size), or null.
   */
  constructor(constants, pose, finder = null) {
    this.constants = constants;
    this.network = new CropNetwork(pose, constants);
    this.finder = finder;
    this.count = 0;
    this.forget();
  }

  /** The hands of a picture {data, width, height} as [side, hand] pairs; with a detector any number. */
  async find(picture, threshold = 0.5, useDetector = true) {
    if (!this.finder || !useDetector) return findInPicture(this.network, picture, threshold);
    const detections = await detect(this.finder, picture, this.constants.detector);
    return findAtDetections(this.network, picture, detections, threshold);
  }

  async predict(picture, { threshold = 0.5, useDetector = true, image = null } = {}) {
    const hands = await this.find(picture, threshold, useDetector);
    return toPrediction(hands, picture, this.constants, image);
  }

  /**
   * The next picture of a film: hands are followed, and looked for anew when one is lost and from time to
   * time: every FIND_AGAIN_S seconds, less often where that would take more than FIND_SHARE of the time. While
   * one is missing they are looked for every SEARCH_S seconds.
   *
   * @param time of the picture in seconds.
   */
  async predictNext(picture, time, { threshold = 0.5, useDetector = true } = {}) {
    const old = !(time >= this.foundAt && time < this.findAt);
    let hands = [];
    if (this.hands.length && !old) {
      hands = await follow(this.network, picture, this.hands, this.constants.FIRST_LOOK * threshold);
    }
    this.missing ||= old || hands.length < Math.max(this.hands.length, 1);
    if (this.missing && (old || time >= this.searchAt)) {
      const start = performance.now();
      const found = await this.find(picture, threshold, useDetector);
      hands = numbered(found, this.hands, () => this.count++);
      const { FIND_AGAIN_S, FIND_SHARE, SEARCH_S } = this.constants;
      [this.missing, this.foundAt, this.searchAt] = [false, time, time + SEARCH_S];
      this.findAt = time + Math.max(FIND_AGAIN_S, (performance.now() - start) / 1000 / FIND_SHARE);
    }
    this.hands = hands;
    return toPrediction(hands, picture, this.constants, null);
  }

  /** Starts a new film. */
  forget() {
    this.hands = [];
    [this.missing, this.foundAt, this.findAt, this.searchAt] = [true, 0, 0, 0];
    this.count = 0;
  }
}

/** The result in the schema of dfmamba/predict/result.py, not rounded. */
export function toPrediction(hands, { width, height }, constants, image) {
  const sorted = [...hands].sort((p, q) => p[0] - q[0] || q[1].score - p[1].score);
  return {
    schema: constants.schema,
    model: constants.model,
    image,
    size: [width, height],
    camera: null,
    mirrored: false,
    scale: constants.scale,
    joint_names: constants.joint_names,
    hands: sorted.map(([side, hand]) => ({
      side: SIDES[side],
      score: hand.score,
      track: hand.track ?? null,
      box_xyxy: handBox(hand.joints, width, height, constants.HAND_MARGIN),
      joints_2d_px: hand.joints.map(([u, v]) => [u, v]),
      joints_3d_mm: liftJoints(hand.joints, constants),
      root: 'wrist',
      scale: constants.scale,
      joint_scores: hand.jointScores,
    })),
  };
}

/** JSON text of a prediction: 0.01 pixels and millimetres, 0.0001 of a score. */
export function toJson(prediction) {
  const round = (value, digits) => Array.isArray(value)
    ? value.map((each) => round(each, digits))
    : Math.round(value * 10 ** digits) / 10 ** digits + 0;
  const hands = prediction.hands.map((hand) => ({
    ...hand,
    score: round(hand.score, 4),
    box_xyxy: round(hand.box_xyxy, 2),
    joints_2d_px: round(hand.joints_2d_px, 2),
    joints_3d_mm: round(hand.joints_3d_mm, 2),
    joint_scores: round(hand.joint_scores, 4),
  }));
  return `${JSON.stringify({ ...prediction, hands }, null, 1)}\n`;
}

/** A predictor from the files beside this module. `threads` of onnxruntime-web; 1 where pages are not isolated. */
export async function loadPredictor(onProgress = () => {}, threads = 1) {
  const here = (name) => new URL(name, import.meta.url);
  const constants = await (await fetched(here('settings.json'))).json();
  const ort = await import(here('ort/ort.wasm.min.mjs').href);
  ort.env.wasm.wasmPaths = here('ort/').href;
  ort.env.wasm.numThreads = threads;
  const open = async ({ file, bytes }) => {
    const content = await download(here(file), bytes, (share) => onProgress(file, share));
    return ort.InferenceSession.create(content, { executionProviders: ['wasm'] });
  };
  const tensor = (values, count, size) => new ort.Tensor('float32', values, [count, 3, size, size]);
  const session = await open(constants.pose);
  const pose = async (values, count) => {
    const output = await session.run({ image: tensor(values, count, constants.image_size) });
    return Object.fromEntries(Object.entries(output).map(([name, { data }]) => [name, data]));
  };
  if (!constants.detector) return new Predictor(constants, pose);
  const detector = await open(constants.detector);
  const finder = async (values) => {
    const output = await detector.run({ image: tensor(values, 1, constants.detector.size) });
    return Object.values(output)[0].data;
  };
  return new Predictor(constants, pose, finder);
}

async function fetched(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url.pathname}: the server answers ${answer.status}; is the folder complete?`);
  return answer;
}

async function download(url, bytes, onProgress) {
  const reader = (await fetched(url)).body.getReader();
  const parts = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    length += value.length;
    onProgress(Math.min(length / bytes, 1));
  }
  const content = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    content.set(part, at);
    at += part.length;
  }
  return content;
}
