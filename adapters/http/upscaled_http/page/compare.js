// The comparison of a picture before and after: a slider or side by side, with zoom.

import { resultSource, save, url } from "./api.js";
import { drawFaces, facesText } from "./faces.js";
import { bytes, megapixels, pixels } from "./format.js";
import { currentKey } from "./key.js";
import { planSize } from "./sizes.js";
import { Viewport } from "./viewport.js";

const dialog = document.getElementById("compare");
const stage = document.getElementById("stage");
const split = document.getElementById("split");
const note = document.getElementById("stage-note");
const level = document.getElementById("zoom-level");
const download = document.getElementById("compare-download");
const [beforePane, afterPane] = stage.querySelectorAll(".pane");
const before = beforePane.querySelector("img");
const after = afterPane.querySelector("img");
const drawings = [...stage.querySelectorAll(".faces")];
const showFaces = document.getElementById("show-faces");
const divider = stage.querySelector(".divider");
const labels = {
  before: stage.querySelector("[data-label=before]"),
  after: stage.querySelector("[data-label=after]"),
};

// Browsers decode a picture as a whole, at four bytes per pixel.
const PREVIEW_FROM_PIXELS = 50e6;
const PREVIEW_FROM_BYTES = 60e6;
const GRIP_PX = 28;
const LABEL_GAP_PX = 12;
const STEP = 1.25;
const PAN_PX = 64;

/** `?preview=1600` if a browser cannot show the result itself, or only with much memory. */
function previewQuery(job) {
  const { width, height } = job.output_size ?? { width: 0, height: 0 };
  const isLarge = width * height > PREVIEW_FROM_PIXELS || (job.file_size_bytes ?? 0) > PREVIEW_FROM_BYTES;
  return job.media_type === "image/tiff" || isLarge ? "?preview=1600" : "";
}

export class Compare {
  /** `list` gives the entries that can be compared, in order. */
  constructor(list) {
    this.list = list;
    this.entry = null;
    this.view = new Viewport();
    this.pointers = new Map();
    this.isSplitting = false;
    this.sources = [];
    document.getElementById("compare-close").addEventListener("click", () => dialog.close());
    document.getElementById("previous").addEventListener("click", () => this.step(-1));
    document.getElementById("next").addEventListener("click", () => this.step(1));
    for (const button of dialog.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => this.zoom(button.dataset.zoom));
    }
    for (const radio of dialog.querySelectorAll("input[name=compare-mode]")) {
      radio.addEventListener("change", () => this.measure());
    }
    showFaces.addEventListener("click", () => this.showFaces(!this.hasFacesShown));
    split.addEventListener("input", () => this.draw());
    download.addEventListener("click", (event) => this.download(event));
    dialog.addEventListener("close", () => this.end());
    dialog.addEventListener("keydown", (event) => this.handleKey(event));
    stage.addEventListener("pointerdown", (event) => this.handleDown(event));
    stage.addEventListener("pointermove", (event) => this.handleMove(event));
    for (const type of ["pointerup", "pointercancel"]) {
      stage.addEventListener(type, (event) => this.handleUp(event));
    }
    stage.addEventListener("wheel", (event) => this.handleWheel(event), { passive: false });
    stage.addEventListener("dblclick", (event) => {
      const { x, y } = this.inPane(event);
      this.zoomTo(this.view.isFit ? this.actual : this.view.fitZoom, x, y);
    });
    new ResizeObserver(() => dialog.open && this.measure()).observe(stage);
  }

  get isSide() {
    return dialog.querySelector("input[name=compare-mode]:checked").value === "side" && this.hasBefore;
  }

  get hasFacesShown() {
    return showFaces.getAttribute("aria-pressed") === "true";
  }

  showFaces(isShown) {
    showFaces.setAttribute("aria-pressed", String(isShown));
    dialog.classList.toggle("has-faces-shown", isShown);
  }

  /** 100 %: a pixel of the result is a pixel of the screen. */
  get actual() {
    return 1 / window.devicePixelRatio;
  }

  async open(entry) {
    this.opener ??= document.activeElement;
    if (!dialog.open) dialog.showModal();
    await this.show(entry);
  }

  async show(entry) {
    this.release();
    this.entry = entry;
    const { job } = entry;
    const list = this.list();
    document.getElementById("compare-title").textContent = entry.name;
    document.getElementById("compare-sizes").textContent = [
      [job.input_size, job.output_size].filter(Boolean).map(pixels).join(" → "),
      megapixels(job.output_size),
      job.file_size_bytes ? bytes(job.file_size_bytes) : null,
      job.model,
      facesText(job),
    ]
      .filter(Boolean)
      .join(", ");
    document.getElementById("previous").disabled = list.indexOf(entry) <= 0;
    document.getElementById("next").disabled = list.indexOf(entry) >= list.length - 1;
    download.href = url(`results/${job.job_id}`);
    showFaces.hidden = !job.faces?.length;
    for (const drawing of drawings) drawFaces(drawing, job);
    split.value = 50;
    this.hasBefore = false;
    dialog.classList.add("is-loading");
    note.textContent = "Loading the result";
    this.view.setPicture(job.output_size);
    this.measure();
    const isPreview = previewQuery(job) !== "";
    const [hasAfter, hasBefore] = await Promise.all([
      resultSource(job.job_id, previewQuery(job)).then((source) => this.load(after, source, entry), () => false),
      entry.file ? this.load(before, URL.createObjectURL(entry.file), entry) : false,
    ]);
    if (this.entry !== entry) return;
    dialog.classList.remove("is-loading");
    dialog.classList.toggle("is-failed", !hasAfter);
    this.hasBefore = hasAfter && hasBefore;
    note.textContent = this.noteText(entry, hasAfter, hasBefore, isPreview);
    this.measure();
  }

  noteText(entry, hasAfter, hasBefore, isPreview) {
    if (!hasAfter) return "The result cannot be shown here. Download it.";
    const parts = [];
    if (isPreview) parts.push("A preview of 1600 px. Download the file for all pixels.");
    if (!hasBefore) {
      parts.push(
        entry.file
          ? "This browser cannot show the original, so there is nothing to compare with."
          : "The original was sent from another browser, so there is nothing to compare with.",
      );
    }
    return parts.join(" ");
  }

  async load(image, source, entry) {
    if (source.startsWith("blob:")) this.sources.push(source);
    image.src = source;
    try {
      await image.decode();
      return this.entry === entry;
    } catch {
      return false;
    }
  }

  /** The stage or the mode has changed. */
  measure() {
    dialog.classList.toggle("is-side", this.isSide);
    dialog.classList.toggle("is-single", !this.hasBefore);
    stage.dataset.direction = stage.clientWidth >= stage.clientHeight ? "row" : "column";
    split.disabled = !this.hasBefore || this.isSide;
    this.view.setPane({ width: afterPane.clientWidth, height: afterPane.clientHeight });
    this.draw();
  }

  draw() {
    const { view } = this;
    place(after, view.x, view.y, view.width, view.height);
    const whole = this.beforeBox();
    for (const element of [before, ...drawings]) {
      place(
        element,
        view.x - whole.x * view.zoom,
        view.y - whole.y * view.zoom,
        whole.width * view.zoom,
        whole.height * view.zoom,
      );
    }
    const percent = (view.zoom / this.actual) * 100;
    level.value = `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
    stage.classList.toggle("can-pan", view.canPan);
    const start = Math.max(0, view.x);
    const end = Math.min(view.pane.width, view.x + view.width);
    const line = start + ((end - start) * split.value) / 100;
    this.line = line;
    divider.style.left = `${line}px`;
    divider.style.top = `${Math.max(0, view.y)}px`;
    divider.style.height = `${Math.min(view.pane.height, view.height)}px`;
    const isSlider = this.hasBefore && !this.isSide;
    afterPane.style.clipPath = isSlider ? `inset(0 0 0 ${line}px)` : "";
    beforePane.style.clipPath = isSlider
      ? `inset(${Math.max(0, view.y)}px ${view.pane.width - line}px ${Math.max(0, view.y)}px ${start}px)`
      : "";
    this.placeLabels(start, end);
    split.setAttribute("aria-valuetext", `${split.value} % before, ${100 - split.value} % after`);
  }

  /** Place each label in its corner of the visible picture. */
  placeLabels(start, end) {
    const top = Math.max(0, this.view.y) + LABEL_GAP_PX;
    const [left, right] = [start + LABEL_GAP_PX, end - LABEL_GAP_PX];
    labels.before.style.transform = `translate(${left}px, ${top}px)`;
    labels.after.style.transform = this.isSide
      ? `translate(${afterPane.offsetLeft + left}px, ${afterPane.offsetTop + top}px)`
      : `translate(calc(${right}px - 100%), ${top}px)`;
  }

  /** The place of the whole original in the result's pixels: a crop has cut some of it. */
  beforeBox() {
    const { job, fields } = this.entry;
    const full = { x: 0, y: 0, ...job.output_size };
    if (!fields?.crop || fields.crop === "none") return full;
    const plan = planSize(fields, job.input_size);
    return { x: plan.cropX, y: plan.cropY, ...plan.scaled };
  }

  zoom(to) {
    if (to === "fit") this.view.fit();
    else if (to === "actual") this.view.zoomTo(this.actual);
    else this.view.zoomTo(this.view.zoom * (to === "in" ? STEP : 1 / STEP));
    this.draw();
  }

  zoomTo(zoom, x, y) {
    this.view.zoomTo(zoom, x, y);
    this.draw();
  }

  handleKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isRadio = event.target.type === "radio";
    const arrows = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (event.key in arrows && event.target === stage) {
      const [dx, dy] = arrows[event.key];
      this.view.pan(dx * PAN_PX, dy * PAN_PX);
      this.draw();
    } else if (event.key === "+" || event.key === "=") this.zoom("in");
    else if (event.key === "-") this.zoom("out");
    else if (event.key === "0") this.zoom("fit");
    else if (event.key === "1") this.zoom("actual");
    else if (event.key === "PageUp" && !isRadio && event.target !== split) this.step(-1);
    else if (event.key === "PageDown" && !isRadio && event.target !== split) this.step(1);
    else return;
    event.preventDefault();
  }

  /** The pointer's place in its pane. */
  inPane(event, pane = this.paneOf(event)) {
    const box = pane.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top, pane };
  }

  paneOf(event) {
    if (!this.isSide) return afterPane;
    const box = afterPane.getBoundingClientRect();
    return event.clientX >= box.left && event.clientY >= box.top ? afterPane : beforePane;
  }

  handleDown(event) {
    if (event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    const point = this.inPane(event);
    this.pointers.set(event.pointerId, point);
    const isNearLine = Math.abs(point.x - this.line) <= GRIP_PX;
    this.isSplitting =
      this.pointers.size === 1 && !split.disabled && (isNearLine || !this.view.canPan);
    if (this.isSplitting) {
      this.splitAt(point.x);
      split.focus();
    } else {
      stage.focus();
    }
    event.preventDefault();
  }

  handleMove(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const point = this.inPane(event, last.pane);
    this.pointers.set(event.pointerId, point);
    if (this.isSplitting) {
      this.splitAt(point.x);
      return;
    }
    if (this.pointers.size === 1) this.view.pan(point.x - last.x, point.y - last.y);
    else this.pinch(event.pointerId, last, point);
    this.draw();
  }

  /** One of two fingers moves: zoom about their middle, and move with it. */
  pinch(id, from, to) {
    const other = [...this.pointers].find(([key]) => key !== id)[1];
    const distance = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
    const middle = (point) => ({ x: (point.x + other.x) / 2, y: (point.y + other.y) / 2 });
    const [start, end] = [middle(from), middle(to)];
    this.view.zoomTo((this.view.zoom * distance(to)) / distance(from), start.x, start.y);
    this.view.pan(end.x - start.x, end.y - start.y);
  }

  handleUp(event) {
    this.pointers.delete(event.pointerId);
    this.isSplitting = false;
  }

  handleWheel(event) {
    event.preventDefault();
    const { x, y } = this.inPane(event);
    const lines = event.deltaMode === 1 ? 16 : 1;
    this.zoomTo(this.view.zoom * Math.exp(-event.deltaY * lines * 0.002), x, y);
  }

  splitAt(x) {
    const start = Math.max(0, this.view.x);
    const end = Math.min(this.view.pane.width, this.view.x + this.view.width);
    split.value = Math.min(100, Math.max(0, ((x - start) / (end - start)) * 100));
    this.draw();
  }

  step(by) {
    const list = this.list();
    const next = list[list.indexOf(this.entry) + by];
    if (next) this.show(next);
  }

  async download(event) {
    // Without a key the link itself downloads.
    if (currentKey() === null) return;
    event.preventDefault();
    await save(`results/${this.entry.job.job_id}`, this.entry.name);
  }

  release() {
    for (const source of this.sources) URL.revokeObjectURL(source);
    this.sources = [];
    before.removeAttribute("src");
    after.removeAttribute("src");
  }

  end() {
    this.release();
    this.entry = null;
    this.pointers.clear();
    if (this.opener?.isConnected) this.opener.focus();
    this.opener = null;
  }
}

function place(element, x, y, width, height) {
  element.style.transform = `translate(${x}px, ${y}px)`;
  element.style.width = `${width}px`;
  element.style.height = `${height}px`;
}
