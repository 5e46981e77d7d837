// Runs the predictor beside the page, one picture after the other.

import { loadPredictor } from './predictor.js';

// One core is the page's and the camera's: on two, a second thread makes the network slower.
const cores = self.crossOriginIsolated ? navigator.hardwareConcurrency - 1 : 1;
const threads = Math.max(Math.min(cores, 4), 1);
const loading = loadPredictor((file, share) => self.postMessage({ kind: 'progress', file, share }), threads);
loading.then(
  ({ constants }) => self.postMessage({ kind: 'ready', constants, threads }),
  (error) => self.postMessage({ kind: 'failed', message: String(error.message ?? error) }),
);

const canvas = new OffscreenCanvas(1, 1);
const context = canvas.getContext('2d', { willReadFrequently: true });

/** A frame of the camera, of which only those pixels are read that are looked at. */
class FramePicture {
  constructor(bitmap) {
    this.bitmap = bitmap;
    [this.width, this.height] = [bitmap.width, bitmap.height];
  }

  read(x, y, width, height) {
    if (canvas.width < width) canvas.width = width;
    if (canvas.height < height) canvas.height = height;
    context.drawImage(this.bitmap, x, y, width, height, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  }
}

let turn = loading.catch(() => {});

self.onmessage = ({ data: { id, kind, picture, time, options } }) => {
  turn = turn.then(async () => {
    try {
      const predictor = await loading;
      const start = performance.now();
      if (kind === 'start') predictor.forget();
      let prediction = null;
      if (kind === 'photo') prediction = await predictor.predict(picture, options);
      if (kind === 'film') {
        prediction = await predictor.predictNext(new FramePicture(picture), time, options);
        picture.close();
      }
      self.postMessage({ id, kind: 'done', prediction, seconds: (performance.now() - start) / 1000 });
    } catch (error) {
      self.postMessage({ id, kind: 'error', message: String(error.message ?? error) });
    }
  });
};
