// The tab for the webcam: one frame after the other, each sent when the answer to the last one is there.

import { predict } from "./api.js";
import { Result } from "./result.js";

const RATE_OVER = 12; // frames
const BUSY_MS = 500;

export class WebcamTab {
  constructor(page) {
    this.page = page;
    this.root = document.getElementById("webcam");
    this.find = (name) => document.getElementById(`webcam-${name}`);
    this.result = new Result(this.root.querySelector(".result"), page.server, page.complain);
    this.frame = document.createElement("canvas");
    this.find("switch").addEventListener("click", () => (this.stream ? this.stop() : this.start()));
    this.find("device").addEventListener("change", () => this.start(this.find("device").value));
  }

  async start(device) {
    this.stop();
    this.page.complain("");
    if (!navigator.mediaDevices?.getUserMedia) {
      this.page.complain("browsers lend the camera to pages of this machine or of https only: open http://127.0.0.1");
      return;
    }
    const run = (this.run = { session: crypto.randomUUID() });
    try {
      const video = { width: { ideal: 640 }, height: { ideal: 480 }, ...(device ? { deviceId: { exact: device } } : {}) };
      const stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
      if (this.run !== run) return stream.getTracks().forEach((track) => track.stop());
      this.stream = stream;
      stream.getVideoTracks()[0].addEventListener("ended", () => this.stop());
      this.find("video").srcObject = stream;
      await this.find("video").play();
      await this.#list(device);
    } catch (error) {
      this.stop();
      this.page.complain(`camera: ${error.message || error.name}`);
      return;
    }
    this.find("switch").textContent = "Stop the camera";
    this.#loop(run);
  }

  stop() {
    this.run = null;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.find("video").srcObject = null;
    this.find("switch").textContent = "Start the camera";
    this.find("rate").textContent = "";
  }

  async #list(device) {
    const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "videoinput");
    this.find("choice").hidden = cameras.length < 2;
    const current = device ?? this.stream.getVideoTracks()[0].getSettings().deviceId;
    this.find("device").replaceChildren(
      ...cameras.map((one, i) => new Option(one.label || `camera ${i + 1}`, one.deviceId, false, one.deviceId === current)),
    );
  }

  async #loop(run) {
    const ends = [];
    while (this.run === run) {
      if (document.hidden) {
        await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
        continue;
      }
      try {
        // The picture goes out as the camera gives it; only its display is mirrored.
        const file = await this.#grab();
        const mirrored = this.find("mirrored").checked;
        const answer = await predict(file, { ...this.page.options(), mirrored, session: run.session });
        if (this.run !== run) return;
        this.result.show(answer, this.frame, { flip: !mirrored, name: "webcam" });
        ends.push(performance.now());
        if (ends.length > RATE_OVER) ends.shift();
        const rate = (1000 * (ends.length - 1)) / (ends.at(-1) - ends[0]);
        if (ends.length > 2) this.find("rate").textContent = `${rate.toFixed(1)} pictures/s`;
        this.page.complain("");
      } catch (error) {
        if (this.run !== run) return;
        this.page.complain(error.message);
        if (error.status !== 503) return this.stop();
        await new Promise((resolve) => setTimeout(resolve, BUSY_MS));
      }
    }
  }

  async #grab() {
    const video = this.find("video");
    while (!video.videoWidth) await new Promise(requestAnimationFrame);
    this.frame.width = video.videoWidth;
    this.frame.height = video.videoHeight;
    this.frame.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => this.frame.toBlob(resolve, "image/jpeg", 0.9));
    return new File([blob], "frame.jpg", { type: "image/jpeg" });
  }
}
