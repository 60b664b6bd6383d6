// The form: method, model, size, file.

import { count } from "./format.js";
import { MAX_SCALE, PAPERS, settingsFault, sizeFields } from "./sizes.js";

const STORED = "upscaled.settings";
const METHODS = {
  esrgan: ["ESRGAN", "Sharpens what the picture shows, on this server. Fast."],
  flux: ["FLUX", "Repaints fine detail, which may differ from the original. Slow."],
  imagen: ["Imagen", "Sends the picture to Google Cloud, which bills each call. Factors 2, 3 and 4."],
  face: ["Faces", "Restores faces with detail that the network invents, and enlarges the picture."],
  fake: ["Fake", "For tests of a host: it enlarges nothing."],
};
const IMAGEN_FACTORS = ["2", "3", "4"];
const LOSSY = new Set(["jpeg", "webp", "avif"]);
const ANCHORS = [
  ["top-left", "Top left"],
  ["top", "Top"],
  ["top-right", "Top right"],
  ["left", "Left"],
  ["center", "Centre"],
  ["right", "Right"],
  ["bottom-left", "Bottom left"],
  ["bottom", "Bottom"],
  ["bottom-right", "Bottom right"],
];

const form = document.getElementById("settings");
const element = (id) => document.getElementById(id);
const part = (root, name) => root.querySelector(`[data-part=${name}]`);

/** The settings form. Emits `change`. */
export class Settings extends EventTarget {
  constructor() {
    super();
    this.models = [];
    // A choice is kept until the server has named its methods and models.
    this.stored = readStored();
    this.wanted = this.stored.method;
    fillPapers();
    fillAnchors();
    this.restore();
    form.addEventListener("input", (event) => {
      if (event.target.name === "method") this.wanted = event.target.value;
      this.update();
    });
    element("settings-toggle").addEventListener("click", () => {
      this.expand(element("settings-toggle").getAttribute("aria-expanded") !== "true");
    });
    this.update();
  }

  /** On a narrow screen the form is folded if nothing is to be set. */
  expand(isOpen) {
    element("settings-toggle").setAttribute("aria-expanded", String(isOpen));
    form.classList.toggle("is-open", isOpen);
  }

  setMethods(methods, unavailable) {
    const signature = JSON.stringify([methods, unavailable, this.models.length]);
    if (this.signature === signature) return;
    this.signature = signature;
    // A worker that is loading has not named its methods yet, but takes jobs.
    const served = [...new Set(this.models.map((model) => model.method))];
    const usable = methods.length ? methods : served.filter((method) => !(method in unavailable));
    const order = Object.keys(METHODS);
    const known = [...new Set([...usable, ...Object.keys(unavailable)])].sort(
      (one, other) => order.indexOf(one) - order.indexOf(other),
    );
    element("methods").replaceChildren(
      ...known.map((method) => {
        const radio = segment("method", method, METHODS[method]?.[0] ?? method);
        radio.input.disabled = !usable.includes(method);
        return radio.label;
      }),
    );
    const first = known.find((method) => usable.includes(method));
    this.choose("method", usable.includes(this.wanted) ? this.wanted : first);
    showUnavailable(known.filter((method) => !usable.includes(method)), unavailable);
    this.update();
  }

  setModels(models) {
    this.models = models;
    this.listedFor = null;
    this.update();
  }

  choose(name, value) {
    const input = form.querySelector(`input[name=${name}][value="${CSS.escape(value ?? "")}"]`);
    if (input) input.checked = true;
    return Boolean(input);
  }

  get method() {
    return checked("method");
  }

  /** The form's values, numbers as numbers. */
  read() {
    const isFactor = checked("size") === "factor";
    const factor = checked("factor");
    const dpi = checked("dpi");
    const format = form.elements.format.value;
    return {
      method: this.method,
      model: checked("model"),
      size: checked("size"),
      factor: factor === "other" ? numberOf("otherFactor") : Number(factor),
      width: numberOf("width"),
      height: numberOf("height"),
      paper: form.elements.paper.value,
      orientation: form.elements.orientation.value,
      inchesWide: numberOf("inchesWide"),
      inchesHigh: numberOf("inchesHigh"),
      dpi: dpi === "other" ? numberOf("otherDpi") : Number(dpi),
      cut: !isFactor && form.elements.cut.checked,
      anchor: checked("anchor"),
      faces: this.canRestoreFacesToo && form.elements.faces.checked,
      strength: numberOf("strength"),
      format,
      quality: LOSSY.has(format) ? numberOf("quality") : null,
    };
  }

  /** ESRGAN jobs take a step for faces; it needs a model that is here. */
  get canRestoreFacesToo() {
    const isThere = this.models.some((model) => model.method === "face" && model.default && model.installed);
    return this.method === "esrgan" && isThere;
  }

  get fault() {
    if (!this.method) return "No method can be used now.";
    const { strength } = this.values;
    if (strength !== null && (strength < 0 || strength > 100)) return "Give a strength from 0 to 100 %.";
    return this.method === "fake" ? null : settingsFault(this.values);
  }

  /** The fields of a request, for an input of this size (or null). */
  fields(input) {
    const values = this.values;
    if (values.method === "fake") return {};
    const fields = sizeFields(values, input);
    if (values.method === "imagen" && fields.upscale_factor) {
      fields.upscale_factor = `x${fields.upscale_factor}`;
    }
    if (values.model) fields.model = values.model;
    const strength = values.strength === null ? null : values.strength / 100;
    if (values.method === "face" && strength !== null) fields.strength = strength;
    if (values.faces) {
      fields.faces = true;
      if (strength !== null) fields.face_strength = strength;
    }
    fields.output_format = values.format;
    if (values.quality !== null) fields.quality = values.quality;
    return fields;
  }

  /** The result's size in words, such as `A4 at 300 dpi`. */
  get sizeName() {
    const values = this.values;
    if (values.size === "factor") return `${values.factor}×`;
    if (values.size === "pixels") return `${values.width ?? "auto"} × ${values.height ?? "auto"} px`;
    const own = `${values.inchesWide} × ${values.inchesHigh} in`;
    return `${values.paper === "own" ? own : paperName(values.paper)} at ${values.dpi} dpi`;
  }

  update() {
    this.listModels();
    this.limitFactors();
    // Kept, because each picture of a long list asks for them.
    this.values = this.read();
    const { method, size, paper, cut, faces } = this.values;
    const isFake = method === "fake";
    element("method-hint").textContent = METHODS[method]?.[1] ?? "";
    for (const pane of form.querySelectorAll("[data-size]")) pane.hidden = pane.dataset.size !== size;
    element("size-field").hidden = isFake;
    element("other-factor").hidden = checked("factor") !== "other";
    element("other-dpi").hidden = checked("dpi") !== "other";
    element("own-paper").hidden = paper !== "own";
    const hasBothSides = size === "print" || (numberOf("width") !== null && numberOf("height") !== null);
    element("crop").hidden = size === "factor" || !hasBothSides;
    element("anchor").hidden = !cut;
    element("faces-field").hidden = method !== "face" && !this.canRestoreFacesToo;
    element("faces-too").hidden = !this.canRestoreFacesToo;
    element("strength-field").hidden = method !== "face" && !faces;
    element("quality-field").hidden = !LOSSY.has(form.elements.format.value);
    const model = this.models.find((one) => one.name === checked("model"));
    element("settings-summary").textContent = [isFake ? null : this.sizeName, model?.name ?? METHODS[method]?.[0]]
      .filter(Boolean)
      .join(", ");
    store(this.values);
    this.dispatchEvent(new Event("change"));
  }

  limitFactors() {
    const { method } = this;
    element("factor-1").hidden = method !== "face";
    for (const radio of form.querySelectorAll("input[name=factor]")) {
      const isForFaces = radio.value === "1";
      radio.disabled = isForFaces ? method !== "face" && method !== null : method === "imagen" && !IMAGEN_FACTORS.includes(radio.value);
      if (radio.disabled && radio.checked) this.choose("factor", "4");
    }
  }

  listModels() {
    const method = this.method;
    const here = this.models.filter((model) => model.method === method);
    element("model-field").hidden = here.length === 0;
    if (this.listedFor !== method) {
      this.listedFor = method;
      const installed = here.filter((model) => model.installed);
      element("model-list").replaceChildren(...installed.map(modelRow));
      showOthers(here.filter((model) => !model.installed));
      const wanted = [this.stored.model, here.find((model) => model.default)?.name, installed[0]?.name];
      wanted.some((name) => name && this.choose("model", name));
    }
    const model = here.find((one) => one.name === checked("model"));
    const box = element("models");
    part(box, "name").textContent = model?.name ?? "None is installed";
    part(box, "tags").replaceChildren(...(model ? tags(model) : []));
    part(box, "description").textContent = model?.description ?? "";
  }

  restore() {
    const { size, factor, paper, orientation, dpi, format, quality, anchor, cut, faces, strength } = this.stored;
    this.choose("size", size);
    if (factor && !this.choose("factor", String(factor))) {
      this.choose("factor", "other");
      form.elements.otherFactor.value = Math.min(factor, MAX_SCALE);
    }
    if (dpi && !this.choose("dpi", String(dpi))) {
      this.choose("dpi", "other");
      form.elements.otherDpi.value = dpi;
    }
    const hasPaper = paper in PAPERS || paper === "own";
    form.elements.paper.value = hasPaper ? paper : "A4";
    form.elements.orientation.value = orientation ?? "auto";
    form.elements.format.value = format ?? "png";
    if (quality) form.elements.quality.value = quality;
    this.choose("anchor", anchor);
    form.elements.cut.checked = Boolean(cut);
    form.elements.faces.checked = Boolean(faces);
    if (strength !== undefined) form.elements.strength.value = strength;
  }
}

/** Why methods cannot be used, each with what to do about it. */
function showUnavailable(methods, reasons) {
  const box = element("unavailable");
  box.hidden = methods.length === 0;
  const names = methods.map((method) => METHODS[method]?.[0] ?? method);
  box.querySelector("summary").textContent = `Why ${new Intl.ListFormat("en-GB").format(names)} cannot be used`;
  box.querySelector("dl").replaceChildren(
    ...methods.flatMap((method, index) => {
      const term = document.createElement("dt");
      const reason = document.createElement("dd");
      term.textContent = names[index];
      reason.append(...withCode(reasons[method] ?? ""));
      return [term, reason];
    }),
  );
}

/** Text in which commands stand between backticks. */
function withCode(text) {
  return text.split("`").map((piece, index) => {
    if (index % 2 === 0) return piece;
    const code = document.createElement("code");
    code.textContent = piece;
    return code;
  });
}

function checked(name) {
  return form.querySelector(`input[name=${name}]:checked:not(:disabled)`)?.value ?? null;
}

function numberOf(name) {
  const value = form.elements[name].valueAsNumber;
  return Number.isNaN(value) ? null : value;
}

function segment(name, value, text) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  const span = document.createElement("span");
  Object.assign(input, { type: "radio", name, value });
  span.textContent = text;
  label.append(input, span);
  return { label, input };
}

function modelRow(model) {
  const { label } = segment("model", model.name, "");
  label.className = "model";
  const text = label.querySelector("span");
  const name = document.createElement("strong");
  name.textContent = model.name;
  const about = document.createElement("small");
  about.textContent = model.description;
  text.append(name, " ", ...tags(model), about);
  return label;
}

function tags(model) {
  const parts = [
    model.scale ? [`${model.scale}×`, ""] : null,
    model.licence ? [model.licence, ""] : null,
    model.commercial_use === false ? ["non-commercial", "warn"] : null,
  ];
  return parts.filter(Boolean).map(([text, kind]) => {
    const tag = document.createElement("span");
    tag.className = `tag ${kind}`;
    tag.textContent = text;
    return tag;
  });
}

function showOthers(models) {
  const box = element("model-others");
  box.hidden = models.length === 0;
  if (models.length === 0) return;
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = `${count(models.length, "more model")} can be installed`;
  const how = document.createElement("p");
  const command = document.createElement("code");
  command.textContent = "upscaled models pull NAME";
  how.append("On the server: ", command);
  const list = document.createElement("ul");
  for (const model of models) {
    const item = document.createElement("li");
    const name = document.createElement("strong");
    name.textContent = model.name;
    const about = document.createElement("small");
    about.textContent = model.description;
    item.append(name, " ", ...tags(model), about);
    list.append(item);
  }
  details.append(summary, how, list);
  box.replaceChildren(details);
}

function paperName(paper) {
  return paper[0].toUpperCase() + paper.slice(1);
}

function fillPapers() {
  for (const [paper, [width, height]] of Object.entries(PAPERS)) {
    const inches = [width, height].map((mm) => Number((mm / 25.4).toFixed(1)));
    const isMetric = paper.startsWith("A");
    const size = isMetric ? `${width / 10} × ${height / 10} cm` : `${inches[0]} × ${inches[1]} in`;
    form.elements.paper.append(new Option(`${paperName(paper)}, ${size}`, paper));
  }
  form.elements.paper.append(new Option("Own size", "own"));
}

function fillAnchors() {
  element("anchor-grid").replaceChildren(
    ...ANCHORS.map(([value, text]) => {
      const { label, input } = segment("anchor", value, text);
      input.checked = value === "center";
      return label;
    }),
  );
}

function readStored() {
  try {
    return JSON.parse(localStorage.getItem(STORED)) ?? {};
  } catch {
    return {};
  }
}

function store(values) {
  // Before the server has named its methods, the choice among them is not known.
  if (values.method) localStorage.setItem(STORED, JSON.stringify(values));
}
