// Hands over their picture, as dfmamba/draw/overlay.py draws them.

import { extent } from './affine.js';

const INK = 'rgb(24 26 32 / 0.6)';
const CONFIDENT = 0.5;

/**
 * Draws a picture and its hands on a canvas, which takes the picture's size.
 *
 * @param picture null: only the hands, over a film that is shown below.
 * @param mirror show it as a mirror does; the prediction is that of the picture as it is.
 */
export function drawOverlay(canvas, picture, prediction, constants, mirror = false) {
  const { bones, joint_colors: colors, side_colors: sideColors } = constants;
  const [width, height] = prediction.size;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext('2d');
  if (picture) {
    context.save();
    if (mirror) context.setTransform(-1, 0, 0, 1, width, 0);
    context.drawImage(picture, 0, 0);
    context.restore();
  } else {
    context.clearRect(0, 0, width, height);
  }
  // The canvas counts from the corner of the first pixel, joints from its centre.
  const placed = ([u, v]) => [mirror ? width - 0.5 - u : u + 0.5, v + 0.5];
  for (const hand of prediction.hands) drawHand(context, hand, hand.joints_2d_px.map(placed), bones, colors);
  for (const hand of prediction.hands) {
    const [x0, y0, x1, y1] = hand.box_xyxy;
    const corners = [placed([mirror ? x1 : x0, y0]), placed([mirror ? x0 : x1, y1])];
    drawLabel(context, hand, corners, sideColors[hand.side]);
  }
}

function drawHand(context, hand, points, bones, colors) {
  const longest = Math.max(context.canvas.width, context.canvas.height);
  const [x0, y0, x1, y1] = extent(points);
  const side = Math.max(x1 - x0, y1 - y0);
  const stroke = Math.min(Math.max(0.022 * side, 0.0025 * longest), 0.011 * longest);
  const edge = 0.7 * stroke;
  const sure = hand.joint_scores.map((score) => score >= CONFIDENT);
  const width = ([p, q]) => (sure[p] && sure[q] ? stroke : 0.45 * stroke);
  const radius = (joint) => stroke * (joint === 0 ? 1.25 : 0.95);
  context.lineCap = 'round';
  for (const bone of bones) line(context, points[bone[0]], points[bone[1]], INK, width(bone) + edge);
  points.forEach((point, joint) => disc(context, point, radius(joint) + edge / 2, INK));
  for (const bone of bones) line(context, points[bone[0]], points[bone[1]], colors[bone[1]], width(bone));
  points.forEach((point, joint) => {
    disc(context, point, radius(joint), sure[joint] ? '#fff' : colors[joint]);
    disc(context, point, 0.68 * radius(joint), sure[joint] ? colors[joint] : '#fff');
  });
}

function drawLabel(context, hand, [[x0, y0], [x1, y1]], color) {
  const { width, height } = context.canvas;
  const size = Math.max(Math.round(0.026 * Math.max(width, height)), 11);
  const text = `${hand.side} ${hand.score.toFixed(2)}`;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.strokeStyle = context.fillStyle = color;
  context.lineWidth = Math.max(0.09 * size, 1);
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  const wide = context.measureText(text).width + 0.9 * size;
  const high = 1.5 * size;
  const x = Math.min(Math.max(x0, 0), Math.max(width - wide, 0));
  const y = Math.min(Math.max(y0 - high, 0), height - high);
  context.fillRect(x, y, wide, high);
  context.fillStyle = '#fff';
  context.textBaseline = 'middle';
  context.fillText(text, x + 0.45 * size, y + high / 2);
}

function line(context, [x0, y0], [x1, y1], color, width) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke();
}

function disc(context, [x, y], radius, color) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = color;
  context.fill();
}
