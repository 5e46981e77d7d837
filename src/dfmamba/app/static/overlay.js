// Hands over their picture, on a canvas. Pixel centres lie at integers, so a pixel's corner is at -0.5.

const SIDES = [900, 1600]; // range of the longer side of the canvas

/**
 * @param {HTMLCanvasElement} canvas
 * @param {CanvasImageSource|null} picture as it was predicted; null where the browser can't show it.
 * @param {object} prediction schema dfmamba.prediction/1.
 * @param {object} skeleton of /api/models.
 * @param {{flip?: boolean, chosen?: number}} how flip: show it as in a mirror; chosen: the hand that stands out.
 */
export function drawOverlay(canvas, picture, prediction, skeleton, { flip = false, chosen = -1 } = {}) {
  const [width, height] = prediction.size;
  const longer = Math.max(width, height);
  const scale = Math.min(Math.max(longer, SIDES[0]), SIDES[1]) / longer;
  canvas.width = Math.max(Math.round(width * scale), 1);
  canvas.height = Math.max(Math.round(height * scale), 1);
  const context = canvas.getContext("2d");
  context.save();
  if (flip) context.setTransform(-1, 0, 0, 1, canvas.width, 0);
  if (picture) {
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  } else {
    context.fillStyle = "#80858f";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  context.restore();
  const place = ([u, v]) => {
    const x = (u + 0.5) * scale;
    return [flip ? canvas.width - x : x, (v + 0.5) * scale];
  };
  prediction.hands.forEach((hand, index) => {
    context.globalAlpha = chosen < 0 || chosen === index ? 1 : 0.75;
    drawHand(context, hand, place, scale, skeleton);
  });
  context.globalAlpha = 1;
  for (const hand of prediction.hands) drawLabel(context, hand, place, skeleton);
}

function drawHand(context, hand, place, scale, skeleton) {
  const points = hand.joints_2d_px.map(place);
  const sides = [0, 1].map((axis) => hand.joints_2d_px.map((joint) => joint[axis]));
  const extent = Math.max(...sides.map((values) => Math.max(...values) - Math.min(...values))) * scale;
  const longest = Math.max(context.canvas.width, context.canvas.height);
  const stroke = Math.min(Math.max(0.022 * extent, 0.0025 * longest), 0.011 * longest);
  const sure = hand.joint_scores.map((score) => score >= skeleton.confident);
  const dark = "rgb(44 46 52 / 0.6)";
  const widths = skeleton.bones.map(([parent, child]) => stroke * (sure[parent] && sure[child] ? 1 : 0.45));
  const radii = points.map((_, joint) => stroke * (joint === 0 ? 1.25 : 0.95));
  context.lineCap = "round";
  skeleton.bones.forEach(([a, b], i) => line(context, points[a], points[b], dark, widths[i] + 0.7 * stroke));
  points.forEach((point, joint) => disc(context, point, radii[joint] + 0.35 * stroke, dark));
  skeleton.bones.forEach(([a, b], i) => line(context, points[a], points[b], skeleton.joint_colors[b], widths[i]));
  points.forEach((point, joint) => {
    const color = skeleton.joint_colors[joint];
    disc(context, point, radii[joint], sure[joint] ? "#fff" : color);
    disc(context, point, 0.68 * radii[joint], sure[joint] ? color : "#fff");
  });
}

function drawLabel(context, hand, place, skeleton) {
  const { width, height } = context.canvas;
  const [x0, y0, x1, y1] = hand.box_xyxy;
  const corners = [place([x0, y0]), place([x1, y1])];
  const left = Math.min(corners[0][0], corners[1][0]);
  const [top, wide] = [corners[0][1], Math.abs(corners[1][0] - corners[0][0])];
  const size = Math.max(Math.round(0.026 * Math.max(width, height)), 9);
  const color = skeleton.side_colors[hand.side];
  context.strokeStyle = color;
  context.lineWidth = Math.max(0.1 * size, 1);
  context.strokeRect(left, top, wide, corners[1][1] - top);
  context.font = `600 ${size}px system-ui, sans-serif`;
  const text = `${hand.side} ${hand.score.toFixed(2)}`;
  const room = context.measureText(text).width + size;
  const x = Math.min(Math.max(left, 0), Math.max(width - room, 0));
  const y = top - 1.6 * size < 0 ? Math.max(top, 0) + 0.3 * size : top - 1.6 * size;
  context.fillStyle = color;
  context.fillRect(x, y, room, 1.5 * size);
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(text, x + size / 2, y + 0.78 * size);
}

function line(context, a, b, color, width) {
  context.beginPath();
  context.moveTo(...a);
  context.lineTo(...b);
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke();
}

function disc(context, center, radius, color) {
  context.beginPath();
  context.arc(...center, radius, 0, 2 * Math.PI);
  context.fillStyle = color;
  context.fill();
}
