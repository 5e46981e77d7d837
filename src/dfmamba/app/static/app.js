// The page: options, tabs, dropping files; each tab is a module of its own.

import { ask } from "./api.js";
import { PhotoTab } from "./photo.js";
import { VideoTab } from "./video.js";
import { WebcamTab } from "./webcam.js";

const form = document.getElementById("options");
const trouble = document.getElementById("trouble");
const DETECTORS = { none: "whole picture", "built-in": "built-in detector" };

function complain(reason) {
  trouble.hidden = !reason;
  if (trouble.textContent !== reason) trouble.textContent = reason;
}

function fill(name, values, titles = {}) {
  form[name].replaceChildren(...values.map((value) => new Option(titles[value] ?? value, value)));
  form[name].disabled = values.length < 2;
}

function options() {
  const { model, detector, threshold, camera } = form;
  return { model: model.value, detector: detector.value, threshold: threshold.value, camera: camera.value.trim() };
}

function setUpTabs(tabs) {
  const buttons = [...document.querySelectorAll("[role=tab]")];
  const choose = (button) => {
    for (const one of buttons) {
      const chosen = one === button;
      one.setAttribute("aria-selected", chosen);
      one.tabIndex = chosen ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (button.id !== "tab-webcam") tabs.webcam.stop();
    complain("");
  };
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => choose(button));
    button.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: -1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = buttons.at(to % buttons.length);
      choose(next);
      next.focus();
    });
  });
}

function setUpDrops(tabs) {
  for (const [name, tab] of Object.entries(tabs)) {
    const zone = document.getElementById(name).querySelector("[data-drop]");
    if (!zone) continue;
    zone.addEventListener("dragover", () => zone.classList.add("over"));
    for (const end of ["dragleave", "drop"]) zone.addEventListener(end, () => zone.classList.remove("over"));
  }
  // A file that misses the zone must not replace the page.
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    const name = document.querySelector("[role=tab][aria-selected=true]").getAttribute("aria-controls");
    if (file) tabs[name].use?.(file);
  });
}

async function start() {
  const server = await (await ask("api/models")).json();
  fill("model", server.models);
  fill("detector", server.detectors, DETECTORS);
  const most = server.limits.upload_bytes;
  const fits = (file) => {
    if (file.size > most) complain(`${file.name}: larger than the limit of ${most / 1e6} MB`);
    return file.size <= most;
  };
  const page = { server, complain, options, fits };
  const tabs = { photo: new PhotoTab(page), video: new VideoTab(page), webcam: new WebcamTab(page) };
  form.threshold.addEventListener("input", () => {
    document.getElementById("threshold-shown").textContent = Number(form.threshold.value).toFixed(2);
  });
  form.addEventListener("change", () => tabs.photo.again());
  form.addEventListener("submit", (event) => event.preventDefault());
  setUpTabs(tabs);
  setUpDrops(tabs);
  document.body.dataset.ready = "true";
}

start().catch((error) => complain(error.message));
