// The tab for photos: chosen, dropped, pasted, or an example.

import { ask, predict } from "./api.js";
import { Result } from "./result.js";

const EXAMPLES = { one_hand: "One hand", two_hands: "Two hands", hand_and_object: "Holding something", egocentric: "Own hands" };

export class PhotoTab {
  constructor(page) {
    this.page = page;
    this.root = document.getElementById("photo");
    this.result = new Result(this.root.querySelector(".result"), page.server, page.complain);
    this.mirrored = document.getElementById("photo-mirrored");
    const input = document.getElementById("photo-file");
    input.addEventListener("change", () => {
      if (input.files.length) this.use(input.files[0]);
      input.value = "";
    });
    this.mirrored.addEventListener("change", () => this.again());
    document.addEventListener("paste", (event) => {
      const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
      if (file && !this.root.hidden) this.use(file);
    });
    const examples = this.root.querySelector(".examples");
    for (const [name, title] of Object.entries(EXAMPLES)) {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "example" });
      const image = Object.assign(new Image(), { src: `examples/${name}.jpg`, alt: "", width: 72, height: 72 });
      button.append(image, title);
      button.addEventListener("click", () => this.#example(name));
      examples.append(button);
    }
  }

  async #example(name) {
    try {
      const response = await ask(`examples/${name}.jpg`);
      this.mirrored.checked = false;
      await this.use(new File([await response.blob()], `${name}.jpg`, { type: "image/jpeg" }));
    } catch (error) {
      this.page.complain(error.message);
    }
  }

  /** Predicts a file and shows the result. */
  async use(file) {
    this.file = file;
    this.running?.abort();
    const running = (this.running = new AbortController());
    this.page.complain("");
    if (!this.page.fits(file)) return this.result.clear();
    this.root.setAttribute("aria-busy", "true");
    try {
      const options = { ...this.page.options(), mirrored: this.mirrored.checked };
      const [answer, picture] = await Promise.all([
        predict(file, options, running.signal),
        createImageBitmap(file).catch(() => null),
      ]);
      if (running.signal.aborted) return;
      this.result.show(answer, picture, { name: file.name?.replace(/\.[^.]*$/, "") || "picture" });
    } catch (error) {
      if (error.name === "AbortError") return;
      this.result.clear();
      this.page.complain(`${file.name || "picture"}: ${error.message.replace(/^picture: /, "")}`);
    } finally {
      if (this.running === running) this.root.removeAttribute("aria-busy");
    }
  }

  /** With other options. */
  again() {
    if (this.file) this.use(this.file);
  }
}
