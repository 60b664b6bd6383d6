// The queue on the page: what runs, what did not finish, and the finished pictures.

import { announce } from "./announce.js";
import { request, resultSource, save } from "./api.js";
import { facesText } from "./faces.js";
import { bytes, count, duration, pixels } from "./format.js";

// The most results in one `results.zip`.
const ZIP_MAX = 100;
const STAGES = {
  load: "Loading the model",
  decode: "Reading the picture",
  encode: "Writing the file",
  write: "Writing the file",
  waiting: "Waiting for the device",
  "find faces": "Looking for faces",
  faces: "Restoring faces",
};

const groups = Object.fromEntries(
  ["active", "stopped", "done"].map((name) => [name, document.getElementById(`group-${name}`)]),
);
const nothing = document.getElementById("nothing");
const templates = {
  row: document.getElementById("row-template"),
  card: document.getElementById("card-template"),
};

export class Queue {
  constructor(entries, uploads, openCompare) {
    this.entries = entries;
    this.uploads = uploads;
    this.openCompare = openCompare;
    this.shown = new Map();
    this.isListed = false;
    this.counting = null;
    this.listed = new Promise((resolve) => (this.endListing = resolve));
    entries.addEventListener("added", ({ detail }) => this.show(detail));
    entries.addEventListener("changed", ({ detail }) => this.show(detail));
    entries.addEventListener("removed", ({ detail }) => this.hide(detail));
    document.getElementById("zip").addEventListener("click", () => this.saveAll());
    const forAll = (id, group, act) =>
      document.getElementById(id).addEventListener("click", () => this.inGroup(group).forEach(act));
    forAll("cancel-all", "active", (entry) => this.cancel(entry));
    forAll("remove-stopped", "stopped", (entry) => this.remove(entry));
    forAll("remove-done", "done", (entry) => this.remove(entry));
  }

  inGroup(group) {
    return [...this.entries.all].filter((entry) => entry.group === group);
  }

  /** The finished pictures that can be shown, in the order of their cards, the newest first. */
  get done() {
    const items = [...groups.done.querySelectorAll("li")];
    const byItem = new Map([...this.shown].map(([entry, { item }]) => [item, entry]));
    return items.map((item) => byItem.get(item)).filter((entry) => entry.hasPicture);
  }

  /** The server's list has come: from now on an empty queue is shown as empty. */
  setListed() {
    this.isListed = true;
    this.endListing();
    this.showCounts();
  }

  show(entry) {
    const before = this.shown.get(entry);
    let view = before;
    if (before?.group !== entry.group) {
      const hadFocus = before?.item.contains(document.activeElement);
      before?.item.remove();
      view = this.create(entry);
      if (hadFocus) (view.item.querySelector("button:not([hidden])") ?? document.getElementById("queue")).focus();
      if (before) announceEnd(entry);
    }
    if (view.kind === "card") fillCard(view.item, entry);
    else fillRow(view.item, entry);
    this.showThumbnail(view, entry);
    this.showCounts();
  }

  create(entry) {
    const { group } = entry;
    const kind = group === "done" ? "card" : "row";
    const item = templates[kind].content.firstElementChild.cloneNode(true);
    const view = { item, kind, group, source: null };
    this.shown.set(entry, view);
    item.querySelector(".thumb").dataset.kind = /\.(\w{1,4})$/.exec(entry.name)?.[1].toUpperCase() ?? "";
    const act = {
      retry: () => this.retry(entry),
      cancel: () => this.cancel(entry),
      remove: () => this.remove(entry),
      compare: () => this.openCompare(entry),
      download: () => save(`results/${entry.job.job_id}`, entry.name),
    };
    for (const control of item.querySelectorAll("[data-action]")) {
      control.addEventListener("click", (event) => {
        event.preventDefault();
        act[control.dataset.action]();
      });
    }
    const list = groups[group].querySelector("ul");
    // Running entries are in the order of their start, ended ones begin with the newest.
    if (group === "active") list.append(item);
    else list.prepend(item);
    return view;
  }

  async showThumbnail(view, entry) {
    if (view.source !== null) return;
    if (entry.thumbnail) view.source = URL.createObjectURL(entry.thumbnail);
    else if (entry.hasResult) {
      view.source = "";
      // While the list comes, the oldest first, each of its pictures is in view for a moment.
      await this.listed;
      await whenNear(view.item);
      view.source = await resultSource(entry.job.job_id, "?preview=512").catch(() => "");
    } else return;
    if (view.source === "") return;
    const image = new Image();
    image.alt = "";
    image.onerror = () => image.remove();
    image.src = view.source;
    view.item.querySelector(".thumb").replaceChildren(image);
  }

  hide(entry) {
    const view = this.shown.get(entry);
    if (!view) return;
    this.shown.delete(entry);
    if (view.source?.startsWith("blob:")) URL.revokeObjectURL(view.source);
    const hadFocus = view.item.contains(document.activeElement);
    const next = view.item.nextElementSibling ?? view.item.previousElementSibling;
    view.item.remove();
    if (hadFocus) {
      (next?.querySelector("button:not([hidden]):last-of-type") ?? document.getElementById("queue")).focus();
    }
    this.showCounts();
  }

  /** Show the counts before the next frame: once for all changes of a long list. */
  showCounts() {
    this.counting ??= requestAnimationFrame(() => {
      this.counting = null;
      for (const [name, group] of Object.entries(groups)) {
        const number = this.inGroup(name).length;
        group.hidden = number === 0;
        group.querySelector(".count").textContent = number;
      }
      nothing.hidden = !this.isListed || this.entries.all.size > 0;
      document.getElementById("zip").hidden = this.inGroup("done").filter((entry) => entry.hasResult).length < 2;
      document.body.classList.toggle("has-jobs", this.entries.all.size > 0);
    });
  }

  async cancel(entry) {
    if (entry.phase !== "job") {
      this.uploads.cancel(entry);
      return;
    }
    await this.announceAfter(entry, "cancelled", async () => {
      const response = await request(`jobs/${entry.job.job_id}/cancel`, { method: "POST" });
      await this.entries.take(await response.json());
    });
  }

  async remove(entry) {
    if (entry.phase !== "job") {
      this.entries.remove(entry);
      return;
    }
    await this.announceAfter(entry, "removed", async () => {
      await request(`jobs/${entry.job.job_id}`, { method: "DELETE", accept: [404] });
      this.entries.remove(entry);
    });
  }

  async announceAfter(entry, done, act) {
    try {
      await act();
    } catch (error) {
      announce(`${entry.name} is not ${done}: ${error.message}`);
      this.shown.get(entry)?.item.querySelector(".row-state, .card-note")?.replaceChildren(error.message);
    }
  }

  async retry(entry) {
    const { file } = entry;
    await this.remove(entry);
    if (file) this.uploads.retry(entry);
  }

  async saveAll() {
    const results = this.inGroup("done").filter((entry) => entry.hasResult);
    const ids = results.map((entry) => entry.job.job_id);
    for (let at = 0; at < ids.length; at += ZIP_MAX) {
      const query = ids.slice(at, at + ZIP_MAX).map((id) => `job_id=${id}`);
      await save(`results.zip?${query.join("&")}`, "results.zip");
    }
  }
}

// The server makes a preview when it is asked for: of a long list only what may be seen.
const nearby = new IntersectionObserver(
  (changes) => {
    for (const { isIntersecting, target } of changes) if (isIntersecting) target.dispatchEvent(new Event("near"));
  },
  { rootMargin: "600px" },
);

/** Wait until an item is in view, or almost. */
async function whenNear(item) {
  nearby.observe(item);
  await new Promise((resolve) => item.addEventListener("near", resolve, { once: true }));
  nearby.unobserve(item);
}

function fillRow(item, entry) {
  const { status, job } = entry;
  item.dataset.status = status;
  const part = (name) => item.querySelector(`.row-${name}`);
  part("name").textContent = entry.name;
  part("size").textContent = sizeText(entry);
  part("state").textContent = stateText(entry);
  const bar = item.querySelector("progress");
  bar.hidden = entry.group !== "active";
  bar.setAttribute("aria-label", `Progress of ${entry.name}`);
  const isSent = status === "uploading" && entry.sent >= 1;
  if (status === "uploading" && !isSent) bar.value = entry.sent * 100;
  else if (status === "processing") bar.value = job.progress;
  else if (isSent) bar.removeAttribute("value");
  else bar.value = 0;
  const button = (name) => item.querySelector(`[data-action=${name}]`);
  button("retry").hidden = entry.group !== "stopped" || !entry.file;
  button("cancel").hidden = entry.group !== "active";
  button("remove").hidden = entry.group !== "stopped";
  for (const one of item.querySelectorAll("button")) {
    one.setAttribute("aria-label", `${one.textContent} ${entry.name}`);
  }
}

function sizeText({ inputSize, outputSize }) {
  if (inputSize && outputSize) return `${pixels(inputSize)} → ${pixels(outputSize)}`;
  return inputSize ? pixels(inputSize) : "";
}

function stateText(entry) {
  const { status, job } = entry;
  if (status === "waiting") return "Waits for its upload";
  if (status === "uploading") return entry.sent < 1 ? `Uploading, ${Math.floor(entry.sent * 100)} %` : "Checked by the server";
  if (status === "refused") return entry.problem.message;
  if (status === "queued") return job.position ? `In the queue, ${count(job.position, "picture")} before it` : "In the queue, next";
  if (status === "processing") {
    const stage = STAGES[job.stage] ?? "Enlarging";
    const left = job.eta_s === null || job.eta_s === undefined ? null : `${duration(job.eta_s)} left`;
    const again = job.attempt > 1 ? `attempt ${job.attempt}` : null;
    return [`${stage}, ${Math.floor(job.progress)} %`, left, again].filter(Boolean).join(", ");
  }
  if (status === "cancelled") return "Cancelled.";
  const advice = entry.file || !job.retryable ? "" : " To try again, choose the picture again.";
  return `${sentence(job.error ?? "The job failed")}${advice}`;
}

/** The text with a full stop, and with a capital unless it begins with a name: jobs tell errors and warnings without. */
function sentence(text) {
  const begun = text.replace(/^[a-z](?=[a-z]*(?:'s)? )/, (letter) => letter.toUpperCase());
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

function fillCard(item, entry) {
  const { job, hasResult } = entry;
  const part = (name) => item.querySelector(`.card-${name}`);
  part("name").textContent = entry.name;
  part("name").title = entry.name;
  const size = job.output_size ?? job.input_size;
  part("size").textContent = [size ? pixels(size) : null, job.file_size_bytes ? bytes(job.file_size_bytes) : null]
    .filter(Boolean)
    .join(", ");
  const faces = facesText(job);
  part("faces").hidden = faces === null;
  part("faces").textContent = faces;
  const notes = [...(job.warnings ?? []).map(sentence), ...(hasResult ? [] : ["Its file is no longer on the server."])];
  part("note").hidden = notes.length === 0;
  part("note").textContent = notes.join(" ");
  part("picture").disabled = !entry.hasPicture;
  part("open").hidden = !entry.hasPicture;
  part("picture").setAttribute("aria-label", `Compare ${entry.name} before and after`);
  const download = item.querySelector("[data-action=download]");
  download.hidden = !hasResult;
  download.setAttribute("aria-label", `Download ${entry.name}`);
  download.href = `api/results/${job.job_id}`;
  item.querySelector("[data-action=remove]").setAttribute("aria-label", `Remove ${entry.name}`);
}

function announceEnd(entry) {
  const { status } = entry;
  if (status === "completed") announce(`${entry.name} is done.`);
  else if (status === "cancelled") announce(`${entry.name} was cancelled.`);
  else if (status === "refused") announce(`${entry.name} was refused: ${entry.problem.message}`);
  else if (status === "failed") announce(`${entry.name} failed: ${sentence(entry.job.error)}`);
}
