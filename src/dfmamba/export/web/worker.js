// Runs the predictor beside the page, one picture after the other.

import { loadPredictor } from './predictor.js';

const threads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
const loading = loadPredictor((file, share) => self.postMessage({ kind: 'progress', file, share }), threads);
loading.then(
  ({ constants }) => self.postMessage({ kind: 'ready', constants, threads }),
  (error) => self.postMessage({ kind: 'failed', message: String(error.message ?? error) }),
);

let turn = loading.catch(() => {});

self.onmessage = ({ data: { id, kind, picture, time, options } }) => {
  turn = turn.then(async () => {
    try {
      const predictor = await loading;
      const start = performance.now();
      if (kind === 'start') predictor.forget();
      const prediction = kind === 'film'
        ? await predictor.predictNext(picture, time, options)
        : kind === 'photo' ? await predictor.predict(picture, options) : null;
      self.postMessage({ id, kind: 'done', prediction, seconds: (performance.now() - start) / 1000 });
    } catch (error) {
      self.postMessage({ id, kind: 'error', message: String(error.message ?? error) });
    }
  });
};
