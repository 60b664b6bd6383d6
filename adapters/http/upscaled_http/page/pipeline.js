// The pipeline on the page: its folders, scores and success rate, and the last pictures.

import { duration, number } from "./format.js";

const root = document.getElementById("pipeline");
const template = document.getElementById("filed-template");
const part = (name) => root.querySelector(`[data-part="${name}"]`);

const FOLDERS = {
  good_quality: "kept as they were",
  upscaled: "enlarged",
  "couldn't_upscale": "could not be enlarged",
};
const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });

/** Show the answer of `/api/images`. Null leaves what is shown. */
export function showPipeline(stats) {
  if (stats === null) return;
  root.hidden = false;
  part("bucket").textContent = stats.bucket;
  part("rule").textContent =
    `Pictures that score ${number(stats.threshold)} or more are kept, the others are enlarged ${stats.scale}×. ` +
    "Counted are the pictures that came through this server.";
  const pictures = Object.values(stats.folders).reduce((sum, one) => sum + one, 0);
  const rate = stats.success_rate ?? null;
  const seconds = stats.seconds_per_picture ?? null;
  setFigures([
    ["Success rate", rate === null ? "–" : percent.format(rate)],
    ["Pictures", String(pictures)],
    ["Time per picture", seconds === null ? "–" : seconds < 1 ? "below 1 s" : duration(seconds)],
    ["Still to do", String(stats.open)],
  ]);
  setRows(part("folders"), Object.entries(stats.folders).map(([name, amount]) => ({
    title: name, note: FOLDERS[name], amount, kind: name,
  })));
  setRows(part("scores"), scoreRows(stats));
  const recent = part("recent");
  recent.hidden = stats.recent.length === 0;
  recent.querySelector("ul").replaceChildren(...stats.recent.map(recentItem));
}

function setFigures(figures) {
  part("figures").replaceChildren(
    ...figures.map(([name, value]) => {
      const pair = document.createElement("div");
      const term = document.createElement("dt");
      const description = document.createElement("dd");
      term.textContent = name;
      description.textContent = value;
      pair.append(term, description);
      return pair;
    }),
  );
}

function scoreRows({ scores, threshold }) {
  let from = 0;
  return scores.map(({ below, pictures }) => {
    const to = below ?? null;
    const title = to === null ? `${number(from)} or more` : from === 0 ? `below ${number(to)}` : `${number(from)} to ${number(to)}`;
    // A class that the threshold divides has pictures of both kinds.
    const kind = from >= threshold ? "good_quality" : to !== null && to <= threshold ? "low" : "mixed";
    from = to;
    return { title, amount: pictures, kind };
  });
}

function setRows(table, rows) {
  const most = Math.max(1, ...rows.map(({ amount }) => amount));
  table.tBodies[0].replaceChildren(
    ...rows.map(({ title, note, amount, kind }) => {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      const cell = document.createElement("td");
      const bar = document.createElement("span");
      head.scope = "row";
      head.textContent = title;
      if (note) {
        const words = document.createElement("span");
        words.className = "note";
        words.textContent = note;
        head.append(" ", words);
      }
      bar.className = "bar-of";
      bar.dataset.kind = kind;
      // Not in the markup: the page's policy allows no styles there.
      bar.style.width = `${(amount / most) * 100}%`;
      bar.setAttribute("aria-hidden", "true");
      const track = document.createElement("span");
      track.className = "bar-track";
      track.append(bar);
      const figure = document.createElement("span");
      figure.className = "amount";
      figure.textContent = amount;
      cell.append(track, figure);
      row.append(head, cell);
      return row;
    }),
  );
}

function recentItem(picture) {
  const item = template.content.firstElementChild.cloneNode(true);
  const score = picture.result?.quality_score ?? null;
  item.dataset.status = picture.success === false || picture.status === "failed" ? "failed" : picture.status;
  item.querySelector(".filed-name").textContent = picture.name ?? "picture";
  item.querySelector(".filed-name").title = picture.name ?? "";
  item.querySelector(".filed-score").textContent = score === null ? "" : `score ${number(score)}`;
  item.querySelector(".filed-state").textContent = stateText(picture);
  return item;
}

function stateText({ status, detail, success, message, result, problem }) {
  if (status === "waiting") return detail ? `Tried again soon. ${detail}` : "Waits";
  if (status === "processing") return "Is being filed";
  if (status === "failed") return problem?.detail ?? "It was not filed.";
  return success ? `In ${result.folder}` : `In ${result.folder}: ${message}`;
}
