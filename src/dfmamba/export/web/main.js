// The page: photos, films and the camera in, a drawing, a view in space and JSON out.

import { isolate } from './isolate.js';
import { Camera, pixelsOf, readPhoto } from './source.js';
import { drawOverlay } from './draw.js';
import { toJson } from './predictor.js';
import { HandView } from './view3d.js';

if (!(await isolate())) await new Promise(() => {}); // the page loads anew

const EXAMPLES = { one_hand: 'One hand', two_hands: 'Two hands', hand_and_object: 'Holding something', egocentric: 'Own hands' };

const element = (id) => document.getElementById(id);
const controls = ['choose', 'camera'].map(element);
const worker = new Worker(new URL('worker.js', import.meta.url), { type: 'module' });
const waiting = new Map();
const camera = new Camera(element('video'));
let constants = null;
let view = null;
let shown = null; // {picture, prediction, mirror, source, name}
let request = 0;

worker.onmessage = ({ data }) => {
  if (data.kind === 'progress') say(`Loading ${data.file}: ${Math.round(100 * data.share)} %`);
  else if (data.kind === 'ready') ready(data);
  else if (data.kind === 'failed') say(data.message, true);
  else {
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.kind === 'error') reject(new Error(data.message));
    else resolve(data);
  }
};
worker.onerror = (event) => say(event.message || 'The page\'s files could not be loaded.', true);

/** Asks the worker; the picture, pixels or a bitmap, moves there. */
function ask(kind, picture, time = 0) {
  const id = ++request;
  const options = { threshold: Number(element('threshold').value), useDetector: element('detector').checked };
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, kind, picture, time, options }, picture ? [picture.data?.buffer ?? picture] : []);
  });
}

function ready(data) {
  constants = data.constants;
  view = new HandView(element('view'), constants);
  element('detector-option').hidden = !constants.detector;
  for (const control of [...controls, ...element('examples').children]) control.disabled = false;
  const threads = data.threads > 1 ? `${data.threads} threads` : 'one thread';
  say(`Ready: model ${constants.model}, ${threads}.`);
  document.body.dataset.ready = 'true';
}

function say(text, problem = false) {
  const status = element('status');
  status.textContent = text;
  status.classList.toggle('problem', problem);
}

const counted = (hands) => {
  if (!hands.length) return 'No hand found';
  return `${hands.length} hand${hands.length > 1 ? 's' : ''}: ${hands.map(({ side }) => side).join(', ')}`;
};

function show(result) {
  shown = result;
  const { picture, prediction, mirror } = result;
  const overlay = element('overlay');
  drawOverlay(overlay, picture, prediction, constants, mirror);
  overlay.hidden = element('screen').hidden = false;
  document.querySelector('.hint').hidden = true;
  // Each hand is relative to its own wrist; side by side they stand as in the picture.
  view.show(placed(prediction.hands));
  const table = element('hands');
  table.hidden = !prediction.hands.length;
  table.tBodies[0].replaceChildren(...prediction.hands.map((hand) => {
    const row = document.createElement('tr');
    const reach = Math.hypot(...hand.joints_3d_mm[12]);
    for (const text of [hand.side, hand.score.toFixed(2), `${reach.toFixed(0)} mm`]) {
      row.insertCell().textContent = text;
    }
    return row;
  }));
  element('download').disabled = false;
}

/** Joints of hands that are each relative to their wrist, moved apart as the wrists are in the picture. */
function placed(hands) {
  if (!hands.length) return [];
  const spans = hands.map(({ joints_2d_px: pixels, joints_3d_mm: joints }) => {
    const size = (points) => Math.hypot(points[9][0] - points[0][0], points[9][1] - points[0][1]);
    return size(joints) / Math.max(size(pixels), 1);
  });
  const scale = spans.reduce((sum, span) => sum + span, 0) / spans.length;
  const [u, v] = hands[0].joints_2d_px[0];
  return hands.map(({ joints_2d_px: [wrist], joints_3d_mm: joints }) =>
    joints.map(([x, y, z]) => [x + scale * (wrist[0] - u), y + scale * (wrist[1] - v), z]));
}

async function openPhoto(file) {
  stopCamera();
  try {
    say(`Looking at ${file.name || 'the picture'}…`);
    const picture = await readPhoto(file);
    const answer = await ask('photo', pixelsOf(picture));
    const prediction = { ...answer.prediction, image: file.name || null };
    show({ picture, prediction, mirror: false, name: file.name || 'photo' });
    say(`${counted(prediction.hands)}.`);
    element('rate').textContent = `${Math.round(1000 * answer.seconds)} ms`;
    document.body.dataset.pictures = Number(document.body.dataset.pictures ?? 0) + 1;
  } catch (error) {
    say(error.message, true);
  }
}

/** A chosen, dropped or pasted file. */
function open(file) {
  if (!constants) return;
  if (file.type.startsWith('video/')) startCamera(file);
  else openPhoto(file);
}

/** Shows the camera or, with a file, a film. */
async function startCamera(file) {
  stopCamera();
  try {
    say(file ? `Looking at ${file.name}…` : 'Waiting for the camera…');
    element('mirror').checked = await camera.start(file);
    element('camera').textContent = file ? 'Stop the film' : 'Stop the camera';
    element('camera').setAttribute('aria-pressed', 'true');
    await ask('start');
    element('screen').hidden = element('video').hidden = false;
    mirrorPreview();
    await film();
    if (!camera.running) stopCamera();
  } catch (error) {
    stopCamera();
    say(error.message, true);
  }
}

/**
 * The camera's film is shown as it comes; hands are drawn over it, newer ones whenever the network is done
 * with a frame, which is then given the newest.
 */
async function film() {
  const ends = [];
  let busy = false;
  let failure = null;
  const predict = async (video) => {
    const answer = await ask('film', await createImageBitmap(video), performance.now() / 1000);
    if (!camera.running) return;
    show({ picture: null, prediction: answer.prediction, mirror: element('mirror').checked, name: 'camera' });
    ends.push(performance.now());
    if (ends.length > 20) ends.shift();
    const rate = ends.length > 1 ? (1000 * (ends.length - 1)) / (ends.at(-1) - ends[0]) : 0;
    element('rate').textContent = `${Math.round(1000 * answer.seconds)} ms, ${rate.toFixed(1)} pictures/s`;
    const text = `${counted(answer.prediction.hands)}.`;
    if (element('status').textContent !== text) say(text);
    document.body.dataset.rate = rate.toFixed(2);
    document.body.dataset.pictures = Number(document.body.dataset.pictures ?? 0) + 1;
  };
  await camera.frames((video) => {
    document.body.dataset.drawn = Number(document.body.dataset.drawn ?? 0) + 1;
    if (busy) return;
    busy = true;
    predict(video)
      .catch((error) => {
        failure = error;
        camera.stop();
      })
      .finally(() => { busy = false; });
  });
  if (failure) throw failure;
}

function mirrorPreview() {
  element('video').classList.toggle('mirrored', element('mirror').checked);
}

function stopCamera() {
  camera.stop();
  element('video').hidden = true;
  element('camera').textContent = 'Start the camera';
  element('camera').setAttribute('aria-pressed', 'false');
}

function download() {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([toJson(shown.prediction)], { type: 'application/json' }));
  link.download = `${shown.name.replace(/\.[^.]*$/, '')}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

element('choose').addEventListener('click', () => element('file').click());
element('file').addEventListener('change', ({ target }) => {
  if (target.files.length) open(target.files[0]);
  target.value = '';
});
element('camera').addEventListener('click', () => (camera.running ? stopCamera() : startCamera(null)));
element('mirror').addEventListener('change', mirrorPreview);
element('download').addEventListener('click', download);
element('threshold').addEventListener('input', ({ target }) => {
  element('threshold-value').textContent = Number(target.value).toFixed(2);
});
addEventListener('paste', ({ clipboardData }) => {
  const file = [...clipboardData.files].find(({ type }) => /^(image|video)\//.test(type));
  if (file) open(file);
});
for (const [name, title] of Object.entries(EXAMPLES)) {
  const address = `examples/${name}.jpg`;
  const image = Object.assign(new Image(), { src: address, alt: '', width: 56, height: 56 });
  const button = Object.assign(document.createElement('button'), { type: 'button', disabled: true });
  button.append(image, title);
  button.addEventListener('click', async () => {
    const answer = await fetch(address);
    if (answer.ok) openPhoto(new File([await answer.blob()], `${name}.jpg`, { type: 'image/jpeg' }));
    else say(`${address}: the server answers ${answer.status}; is the folder complete?`, true);
  });
  element('examples').append(button);
}
const stage = element('stage');
addEventListener('dragover', (event) => {
  event.preventDefault();
  stage.classList.add('over');
});
addEventListener('dragleave', ({ relatedTarget }) => relatedTarget ?? stage.classList.remove('over'));
addEventListener('drop', (event) => {
  event.preventDefault();
  stage.classList.remove('over');
  if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
});
