// Hands in space on a canvas: drawn without a library, turned by mouse, touch or keys.
//
// Frame: x right, y down, z forward, millimetres. The view looks along z at yaw = pitch = 0.

const EYE = 5; // distance of the eye, in radii of what is shown
const GRID_MM = 20;
const START = { yaw: -25, pitch: 14, zoom: 1 };
const STEP = 10; // degrees a key press
const PALM = [0, 1, 5, 9, 13, 17];

export class HandView {
  /**
   * @param {HTMLCanvasElement} canvas focusable; its size on the page may change.
   * @param {{bones: number[][], joint_colors: string[]}} skeleton bones (parent, child) and a colour a joint.
   */
  constructor(canvas, skeleton) {
    this.canvas = canvas;
    this.skeleton = skeleton;
    this.hands = [];
    this.faint = [];
    this.pointers = new Map();
    Object.assign(this, START);
    canvas.tabIndex = 0;
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("pointermove", (event) => this.#drag(event));
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /**
   * @param {number[][][]} hands 21 joints in millimetres each, all in one frame.
   * @param {boolean[]} faint hands that are drawn pale.
   */
  show(hands, faint = []) {
    this.hands = hands;
    this.faint = faint;
    this.draw();
  }

  reset() {
    Object.assign(this, START);
    this.draw();
  }

  turn(yaw, pitch) {
    this.yaw = (((this.yaw + yaw + 180) % 360) + 360) % 360 - 180;
    this.pitch = Math.min(Math.max(this.pitch + pitch, -89), 89);
    this.draw();
  }

  scale(factor) {
    this.zoom = Math.min(Math.max(this.zoom * factor, 0.4), 5);
    this.draw();
  }

  #key(event) {
    const actions = {
      ArrowLeft: () => this.turn(-STEP, 0),
      ArrowRight: () => this.turn(STEP, 0),
      ArrowUp: () => this.turn(0, STEP),
      ArrowDown: () => this.turn(0, -STEP),
      "+": () => this.scale(1.2),
      "=": () => this.scale(1.2),
      "-": () => this.scale(1 / 1.2),
      Home: () => this.reset(),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  #drag(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const now = [event.clientX, event.clientY];
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const distance = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
      this.scale(distance(now) / Math.max(distance(last), 1));
    } else {
      this.turn((now[0] - last[0]) * 0.6, (now[1] - last[1]) * 0.6);
    }
    this.pointers.set(event.pointerId, now);
  }

  #wheel(event) {
    // The page scrolls over a view that nobody has chosen.
    if (document.activeElement !== this.canvas) return;
    event.preventDefault();
    this.scale(Math.exp(-event.deltaY / 600));
  }

  draw() {
    const { canvas } = this;
    canvas.dataset.yaw = this.yaw.toFixed(0);
    canvas.dataset.pitch = this.pitch.toFixed(0);
    canvas.dataset.zoom = this.zoom.toFixed(2);
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.lineCap = "round";
    const style = getComputedStyle(canvas);
    const paper = rgb(style.backgroundColor);
    const ink = rgb(style.color);
    const points = this.hands.flat();
    if (!points.length) return;
    const scene = this.#scene(points, width, height);
    drawGround(context, scene, mix(paper, ink, 0.22), paper);
    for (const hand of this.hands) drawShadow(context, scene, hand, this.skeleton, mix(paper, ink, 0.12));
    this.#drawHands(context, scene, paper);
  }

  #scene(points, width, height) {
    const low = [0, 1, 2].map((axis) => Math.min(...points.map((point) => point[axis])));
    const high = [0, 1, 2].map((axis) => Math.max(...points.map((point) => point[axis])));
    const center = low.map((value, axis) => (value + high[axis]) / 2);
    const radius = Math.max(...points.map((p) => Math.hypot(...p.map((v, axis) => v - center[axis]))), 1);
    const [yaw, pitch] = [this.yaw, this.pitch].map((angle) => (angle * Math.PI) / 180);
    const zoom = (0.46 * this.zoom * Math.min(width, height)) / radius;
    const project = (point) => {
      const [x, y, z] = point.map((value, axis) => value - center[axis]);
      const right = x * Math.cos(yaw) + z * Math.sin(yaw);
      const level = -x * Math.sin(yaw) + z * Math.cos(yaw);
      const down = y * Math.cos(pitch) - level * Math.sin(pitch);
      const depth = (y * Math.sin(pitch) + level * Math.cos(pitch)) / radius;
      const near = EYE / Math.max(EYE + depth, 0.5);
      return { x: width / 2 + right * zoom * near, y: height * 0.48 + down * zoom * near, near, depth };
    };
    return { center, radius, zoom, project, ground: high[1] + 0.12 * radius };
  }

  #drawHands(context, scene, paper) {
    const pieces = [];
    this.hands.forEach((hand, number) => {
      const seen = hand.map(scene.project);
      const pale = this.faint[number] ? 0.55 : 0;
      const haze = (depth) => Math.min(Math.max(0.15 + 0.35 * depth, 0), 0.5) * (1 - pale) + pale;
      const thick = 0.06 * scene.zoom * Math.min(scene.radius, 110);
      const palm = PALM.reduce((sum, joint) => sum + seen[joint].depth, 0) / PALM.length;
      pieces.push([palm + 0.02, () => drawPalm(context, seen, mix([128, 128, 128], paper, haze(palm)))]);
      for (const [parent, child] of this.skeleton.bones) {
        const depth = (seen[parent].depth + seen[child].depth) / 2;
        const width = (thick * (seen[parent].near + seen[child].near)) / 2;
        const color = hex(this.skeleton.joint_colors[child]);
        pieces.push([depth, () => {
          line(context, seen[parent], seen[child], mix(mix(color, [30, 32, 38], 0.45), paper, haze(depth)), 1.35 * width);
          line(context, seen[parent], seen[child], mix(color, paper, haze(depth)), width);
        }]);
      }
      seen.forEach((joint, index) => {
        const color = hex(this.skeleton.joint_colors[index]);
        const radius = thick * joint.near * (index === 0 ? 0.95 : 0.78);
        pieces.push([joint.depth - 0.02, () => {
          disc(context, joint, 1.2 * radius, mix(mix(color, [30, 32, 38], 0.45), paper, haze(joint.depth)));
          disc(context, joint, radius, mix(color, paper, haze(joint.depth)));
          const shine = { x: joint.x - 0.3 * radius, y: joint.y - 0.3 * radius };
          disc(context, shine, 0.35 * radius, mix(mix(color, [255, 255, 255], 0.6), paper, haze(joint.depth)));
        }]);
      });
    });
    pieces.sort((a, b) => b[0] - a[0]);
    for (const [, paint] of pieces) paint();
  }
}

function drawGround(context, scene, color, paper) {
  const reach = 1.05 * scene.radius;
  const step = GRID_MM * Math.max(1, Math.ceil(reach / GRID_MM / 12));
  const count = Math.ceil(reach / step);
  const cuts = 24;
  for (let line_ = -count; line_ <= count; line_++) {
    for (const alongX of [true, false]) {
      for (let cut = 0; cut < cuts; cut++) {
        const ends = [cut, cut + 1].map((i) => {
          const along = reach * ((2 * i) / cuts - 1);
          return alongX ? [along, line_ * step] : [line_ * step, along];
        });
        const fade = Math.max(...ends.map(([x, z]) => Math.hypot(x, z))) / reach;
        if (fade >= 1) continue;
        const [a, b] = ends.map(([x, z]) => scene.project([x + scene.center[0], scene.ground, z + scene.center[2]]));
        line(context, a, b, mix(color, paper, fade * fade), 1);
      }
    }
  }
}

function drawShadow(context, scene, hand, skeleton, color) {
  const seen = hand.map(([x, , z]) => scene.project([x, scene.ground, z]));
  for (const [parent, child] of skeleton.bones) {
    line(context, seen[parent], seen[child], color, 0.05 * scene.radius * scene.zoom * seen[child].near);
  }
}

function drawPalm(context, seen, color) {
  context.beginPath();
  for (const joint of PALM) context.lineTo(seen[joint].x, seen[joint].y);
  context.closePath();
  context.fillStyle = css(color, 0.3);
  context.fill();
}

function line(context, a, b, color, width) {
  context.beginPath();
  context.moveTo(a.x, a.y);
  context.lineTo(b.x, b.y);
  context.strokeStyle = css(color);
  context.lineWidth = width;
  context.stroke();
}

function disc(context, center, radius, color) {
  context.beginPath();
  context.arc(center.x, center.y, radius, 0, 2 * Math.PI);
  context.fillStyle = css(color);
  context.fill();
}

const mix = (color, other, share) => color.map((value, i) => value + (other[i] - value) * share);
const css = (color, alpha = 1) => `rgb(${color.map(Math.round).join(" ")} / ${alpha})`;
const hex = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
const rgb = (text) => text.match(/[\d.]+/g).slice(0, 3).map(Number);
