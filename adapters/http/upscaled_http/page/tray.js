// Chosen pictures that are not started yet, each with the size of its result.

import { announce } from "./announce.js";
import { drawNothing, drawPlan } from "./diagram.js";
import { bytes, count, megapixels, pixels } from "./format.js";
import { kindOf, measure } from "./pictures.js";
import { planFault, planSize } from "./sizes.js";

const section = document.getElementById("tray");
const list = document.getElementById("tray-list");
const title = document.getElementById("tray-title");
const start = document.getElementById("start");
const sizeFault = document.getElementById("size-fault");
const template = document.getElementById("staged-template");

export class Tray {
  constructor(settings) {
    this.settings = settings;
    this.limits = null;
    this.pictures = [];
    this.picked = null;
    this.shown = null; // the picture whose result is drawn
    settings.addEventListener("change", () => this.update());
    document.getElementById("tray-clear").addEventListener("click", () => this.clear());
    this.update();
  }

  /** Measure files one after the other: a large photograph takes much memory while it is decoded. */
  async add(files) {
    const added = [...files].map((file) => this.stage(file));
    if (added.length) announce(`${count(added.length, "picture")} added.`);
    if (this.pictures.length) this.settings.expand(true);
    this.update();
    for (const picture of added) {
      const kind = await kindOf(picture.file).catch(() => null);
      picture.element.querySelector(".thumb").dataset.kind = suffixOf(picture.name);
      picture.fault = this.fileFault(picture.file, kind);
      if (picture.fault === null) {
        Object.assign(picture, await measure(picture.file, kind));
        picture.fault = this.pictureFault(picture.size);
      }
      picture.isMeasured = true;
      if (picture.thumbnail) {
        picture.source = URL.createObjectURL(picture.thumbnail);
        const image = new Image();
        image.src = picture.source;
        image.alt = "";
        picture.element.querySelector(".thumb").replaceChildren(image);
      }
      if (this.shown === null || this.picked === picture) this.update();
      else this.showPicture(picture);
    }
    this.update();
  }

  stage(file) {
    const element = template.content.firstElementChild.cloneNode(true);
    const name = file.name || "pasted picture";
    const picture = { file, name, element, size: null, thumbnail: null, source: null, fault: null, isMeasured: false };
    element.querySelector(".staged-name").textContent = name;
    element.querySelector(".staged-pick").addEventListener("click", () => {
      this.picked = picture;
      this.update();
    });
    const remove = element.querySelector("[data-action=unstage]");
    remove.setAttribute("aria-label", `Take ${name} off the list`);
    remove.addEventListener("click", () => this.remove(picture));
    this.pictures.push(picture);
    list.append(element);
    return picture;
  }

  fileFault(file, kind) {
    if (file.size === 0) return "The file is empty.";
    if (kind === null) return "Not a picture of an accepted kind. Give PNG, JPEG, WebP, TIFF or AVIF.";
    const limit = this.limits?.max_request_mb;
    if (limit && file.size > limit * 1e6) return `${bytes(file.size)}; the limit is ${limit} MB.`;
    return null;
  }

  pictureFault(size) {
    const limit = this.limits?.max_input_megapixels;
    if (!size || !limit || size.width * size.height <= limit * 1e6) return null;
    return `${megapixels(size)}; the limit is ${limit} megapixels.`;
  }

  /** `{fields, plan, fault}` of a picture with the present settings. */
  outcome(picture) {
    const fields = this.settings.fields(picture.size);
    const { method } = this.settings.values;
    if (picture.fault || this.settings.fault) return { fields, plan: null, fault: picture.fault };
    if (method === "fake" || !picture.size) return { fields, plan: null, fault: null };
    const plan = planSize(fields, picture.size);
    return { fields, plan, fault: planFault(plan, picture.size, method, this.limits) };
  }

  get startable() {
    if (this.settings.fault) return [];
    return this.pictures.filter((one) => one.isMeasured && this.outcome(one).fault === null);
  }

  /** Take the pictures that can start off the list: what an upload needs of each. */
  takeStartable() {
    const { method } = this.settings.values;
    const taken = this.startable;
    const staged = taken.map((picture) => {
      const { fields, plan } = this.outcome(picture);
      const { file, name, size, thumbnail } = picture;
      return { file, name, size, thumbnail, method, fields, planned: plan?.output ?? null };
    });
    for (const picture of taken) this.drop(picture);
    this.update();
    return staged;
  }

  remove(picture) {
    const index = this.pictures.indexOf(picture);
    this.drop(picture);
    this.update();
    const next = this.pictures[Math.min(index, this.pictures.length - 1)];
    (next?.element.querySelector("[data-action=unstage]") ?? document.getElementById("choose")).focus();
  }

  clear() {
    for (const picture of [...this.pictures]) this.drop(picture);
    this.update();
    document.getElementById("choose").focus();
  }

  drop(picture) {
    this.pictures = this.pictures.filter((one) => one !== picture);
    picture.element.remove();
    if (picture.source) URL.revokeObjectURL(picture.source);
    if (this.picked === picture) this.picked = null;
  }

  update() {
    const { settings } = this;
    section.hidden = this.pictures.length === 0;
    document.body.classList.toggle("has-staged", this.pictures.length > 0);
    const measured = this.pictures.filter((one) => one.size && !one.fault);
    this.shown = measured.includes(this.picked) ? this.picked : (measured[0] ?? null);
    for (const picture of this.pictures) this.showPicture(picture);
    this.showOutcome();
    const startable = this.startable.length;
    const isMeasuring = this.pictures.some((one) => !one.isMeasured);
    title.textContent = isMeasuring ? "Reading the pictures" : "Ready to start";
    start.disabled = startable === 0 || isMeasuring;
    start.textContent = startText(this.pictures.length, startable, isMeasuring);
    sizeFault.textContent = settings.fault ?? "";
  }

  showPicture(picture) {
    const { element } = picture;
    const { plan, fault } = this.outcome(picture);
    element.querySelector(".staged-pick").setAttribute("aria-pressed", String(picture === this.shown));
    element.classList.toggle("is-refused", fault !== null);
    element.classList.toggle("is-measuring", !picture.isMeasured);
    const size = element.querySelector(".staged-size");
    if (!picture.isMeasured) size.textContent = "Reading";
    else if (fault) size.textContent = fault;
    else if (plan) size.textContent = `${pixels(picture.size)} → ${pixels(plan.output)}`;
    else size.textContent = picture.size ? pixels(picture.size) : "The server finds its size after the upload.";
  }

  showOutcome() {
    const { settings, shown } = this;
    const values = settings.values;
    if (settings.fault || values.method === "fake") {
      drawNothing(settings.fault || !settings.method ? "—" : "No result size", null, values);
      return;
    }
    if (!shown) {
      const sample = { width: 300, height: 200 };
      const fields = settings.fields(sample);
      const isScaled = values.size === "factor";
      drawNothing(settings.sizeName, isScaled || values.size === "print" ? planSize(fields, sample) : null, values);
      return;
    }
    drawPlan(shown.size, planSize(settings.fields(shown.size), shown.size), shown.source, settings.sizeName, values);
  }
}

function suffixOf(name) {
  return /\.(\w{1,4})$/.exec(name)?.[1].toUpperCase() ?? "";
}

function startText(all, startable, isMeasuring) {
  if (all === 0) return "Choose pictures first";
  if (isMeasuring) return "Reading the pictures";
  if (startable === 0) return "No picture can start";
  return startable === all ? `Start ${count(all, "picture")}` : `Start ${startable} of ${count(all, "picture")}`;
}
