// The tab for films: upload, progress, the film with its hands.

import { ask, makeForm } from "./api.js";

const PAUSE_MS = 400;

export class VideoTab {
  constructor(page) {
    this.page = page;
    this.root = document.getElementById("video");
    this.find = (name) => document.getElementById(`video-${name}`);
    const reason = page.server.films;
    this.find("missing").hidden = !reason;
    this.find("missing").textContent = reason ? `No films yet: ${reason}` : "";
    this.find("file").disabled = Boolean(reason);
    this.root.querySelector(".drop").classList.toggle("off", Boolean(reason));
    this.find("file").addEventListener("change", () => {
      const [file] = this.find("file").files;
      if (file) this.use(file);
      this.find("file").value = "";
    });
    this.find("cancel").addEventListener("click", () => this.cancel());
  }

  /** Sends a film and waits for its result. */
  async use(file) {
    if (this.page.server.films) return;
    this.page.complain("");
    if (!this.page.fits(file)) return;
    await this.cancel();
    const run = (this.run = { upload: new AbortController() });
    this.find("result").hidden = true;
    this.find("work").hidden = false;
    this.find("progress").removeAttribute("value");
    this.find("state").textContent = "sending the film";
    try {
      const { model, detector, threshold, camera } = this.page.options();
      const mirrored = this.find("mirrored").checked;
      const [smooth, mesh] = ["smooth", "mesh"].map((name) => this.find(name).checked);
      const options = { model, detector, threshold, camera, mirrored, smooth, mesh };
      const init = { method: "POST", body: makeForm("film", file, options), signal: run.upload.signal };
      let job = await (await ask("api/film", init)).json();
      run.job = job.id;
      while (this.run === run && ["waiting", "running"].includes(job.state)) {
        this.#progress(job);
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
        if (this.run !== run) return;
        job = await (await ask(`api/film/${job.id}`)).json();
      }
      if (this.run === run) this.#finish(job, file.name);
    } catch (error) {
      if (this.run !== run || error.name === "AbortError") return;
      this.find("work").hidden = true;
      this.page.complain(`${file.name}: ${error.message.replace(/^film: /, "")}`);
    }
  }

  #progress(job) {
    const bar = this.find("progress");
    if (job.frames_total) bar.value = Math.min(job.frames_done / job.frames_total, 1);
    else bar.removeAttribute("value");
    const rate = job.seconds ? `, ${(job.frames_done / job.seconds).toFixed(1)} frames/s` : "";
    const of = job.frames_total ? ` of ${job.frames_total}` : "";
    this.find("state").textContent = job.state === "waiting" ? "waiting" : `${job.frames_done}${of} frames${rate}`;
  }

  #finish(job, name) {
    this.find("work").hidden = true;
    if (job.state !== "done") {
      this.page.complain(`${name}: ${(job.error ?? job.state).replace(/^film: /, "")}`);
      return;
    }
    const stem = name.replace(/\.[^.]*$/, "");
    // Relative to the page, which a proxy may show in a folder.
    const files = `api/film/${job.id}`;
    this.find("player").src = `${files}/overlay.mp4`;
    Object.assign(this.find("overlay"), { href: `${files}/overlay.mp4`, download: `${stem}_hands.mp4` });
    Object.assign(this.find("lines"), { href: `${files}/predictions.jsonl`, download: `${stem}.jsonl` });
    this.find("result").hidden = false;
    this.find("work").hidden = false;
    this.find("progress").value = 1;
    const rate = (job.frames_done / Math.max(job.seconds, 0.01)).toFixed(1);
    const hands = job.tracks === 1 ? "1 hand" : `${job.tracks} hands`;
    const note = job.error ? ` (${job.error})` : "";
    this.find("state").textContent = `${job.frames_done} frames, ${hands}, ${rate} frames/s${note}`;
    this.find("cancel").hidden = true;
  }

  async cancel() {
    const { run } = this;
    this.run = null;
    this.find("work").hidden = true;
    this.find("cancel").hidden = false;
    run?.upload.abort();
    if (run?.job) await ask(`api/film/${run.job}`, { method: "DELETE" }).catch(() => null);
  }
}
