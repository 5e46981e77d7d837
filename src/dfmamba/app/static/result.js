// What was found in a picture: overlay, hand in space, table, downloads.

import { ask, save } from "./api.js";
import { drawOverlay } from "./overlay.js";
import { HandView } from "./view3d.js";

export class Result {
  /**
   * @param {HTMLElement} root gets the content of the template.
   * @param {object} server answer of /api/models.
   * @param {(reason: string) => void} complain shows a line.
   */
  constructor(root, server, complain) {
    this.root = root;
    this.skeleton = server.skeleton;
    this.complain = complain;
    root.append(document.getElementById("result").content.cloneNode(true));
    this.find = (selector) => root.querySelector(selector);
    this.view = new HandView(this.find(".view"), this.skeleton);
    this.chosen = 0;
    this.group = `hand-${root.parentElement.id}`;
    this.find("[data-save=glb]").hidden = !server.formats.includes("glb");
    this.find("[data-save=json]").addEventListener("click", () => save(this.text, "application/json", `${this.name}.json`));
    this.find("[data-save=glb]").addEventListener("click", () => this.#saveGlb());
    this.find(".joints").addEventListener("toggle", () => this.#table());
  }

  /**
   * @param {{text: string, prediction: object, times: object}} answer of the server.
   * @param {CanvasImageSource|null} picture that was predicted.
   * @param {{flip?: boolean, name?: string}} how see `drawOverlay`; name of downloads.
   */
  show(answer, picture, { flip = false, name = "hands" } = {}) {
    Object.assign(this, { ...answer, picture, flip, name });
    const { hands } = this.prediction;
    this.chosen = Math.min(this.chosen, Math.max(hands.length - 1, 0));
    this.root.hidden = false;
    this.#summary();
    this.#chooser();
    this.#draw();
  }

  clear() {
    this.root.hidden = true;
    this.prediction = null;
  }

  #summary() {
    const { hands } = this.prediction;
    const found = hands.map((hand) => `${hand.side} ${hand.score.toFixed(2)}`).join(", ");
    const count = hands.length === 1 ? "1 hand" : `${hands.length} hands`;
    const text = hands.length ? `${count}: ${found}` : "No hands found";
    const times = `${this.times.predict.toFixed(0)} ms`;
    const summary = this.find(".summary");
    // Only what changes is read out: with a camera this runs many times a second.
    if (summary.dataset.text !== text) {
      summary.dataset.text = text;
      summary.replaceChildren(text, Object.assign(document.createElement("small"), { ariaHidden: "true" }));
    }
    summary.querySelector("small").textContent = ` predicted in ${times}`;
    this.find(".facts").classList.toggle("none", !hands.length);
    this.find(".joints").hidden = !hands.length;
  }

  #chooser() {
    const { hands } = this.prediction;
    const fieldset = this.find(".hands");
    fieldset.hidden = hands.length < 2;
    const names = hands.map((hand) => `${hand.side} ${hand.score.toFixed(2)}`);
    const labels = [...fieldset.querySelectorAll("label")];
    if (labels.length === names.length) {
      labels.forEach((label, i) => (label.lastChild.textContent = ` ${names[i]}`));
    } else {
      for (const label of labels) label.remove();
      names.forEach((name, i) => {
        const label = document.createElement("label");
        const radio = Object.assign(document.createElement("input"), { type: "radio", name: this.group, value: i });
        radio.addEventListener("change", () => {
          this.chosen = i;
          this.#draw();
        });
        label.append(radio, ` ${name}`);
        fieldset.append(label);
      });
    }
    fieldset.querySelectorAll("input").forEach((radio, i) => (radio.checked = i === this.chosen));
  }

  #draw() {
    const { hands } = this.prediction;
    const chosen = hands.length > 1 ? this.chosen : -1;
    drawOverlay(this.find(".overlay"), this.picture, this.prediction, this.skeleton, { flip: this.flip, chosen });
    const hand = hands[this.chosen];
    // Where hands are from each other is known in the camera's frame only.
    const together = hand?.root === "camera" ? hands : hands.slice(this.chosen, this.chosen + 1);
    this.view.show(
      together.map((one) => one.joints_3d_mm),
      together.map((one) => one !== hand),
    );
    this.#table();
  }

  #table() {
    const details = this.find(".joints");
    const hand = this.prediction?.hands[this.chosen];
    if (!details.open || !hand) return;
    const where = hand.root === "camera" ? "in the camera's frame" : "relative to the wrist";
    this.find("caption").textContent = `${hand.side} hand`;
    this.find(".where").textContent = `Millimetres are ${where}, for a hand of mean adult size.`;
    const rows = this.prediction.joint_names.map((name, joint) => {
      const row = document.createElement("tr");
      const head = Object.assign(document.createElement("th"), { scope: "row", textContent: name.replace("_", " ") });
      head.style.setProperty("--finger", this.skeleton.joint_colors[joint]);
      const numbers = [...hand.joints_2d_px[joint], ...hand.joints_3d_mm[joint]].map((value) => value.toFixed(1));
      row.append(head);
      for (const text of [...numbers, hand.joint_scores[joint].toFixed(2)]) row.insertCell().textContent = text;
      return row;
    });
    this.find("tbody").replaceChildren(...rows);
  }

  async #saveGlb() {
    try {
      const headers = { "Content-Type": "application/json" };
      const response = await ask("api/convert?format=glb", { method: "POST", body: this.text, headers });
      save(await response.blob(), "model/gltf-binary", `${this.name}.glb`);
    } catch (error) {
      this.complain(error.message);
    }
  }
}
