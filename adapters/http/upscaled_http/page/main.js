// The page: connects the parts.

import { getJson } from "./api.js";
import { Compare } from "./compare.js";
import { Entries } from "./entries.js";
import { showHealth } from "./glance.js";
import { onForget } from "./key.js";
import { followHealth, followJobs } from "./live.js";
import * as originals from "./originals.js";
import { showPipeline } from "./pipeline.js";
import { Queue } from "./queue.js";
import { Settings } from "./settings.js";
import { Tray } from "./tray.js";
import { Uploads } from "./uploads.js";
import { watchDrops } from "./drop.js";
import "./themeswitch.js";

const notice = document.getElementById("notice");
const notices = { connection: null, hold: null, server: null };

function showNotice(kind, text) {
  notices[kind] = text;
  const shown = notices.connection ?? notices.hold ?? notices.server;
  notice.hidden = shown === null;
  if (notice.textContent !== shown) notice.textContent = shown ?? "";
}

const settings = new Settings();
const tray = new Tray(settings);
const entries = new Entries();
const uploads = new Uploads(entries, (seconds, reason) => {
  if (seconds === null) showNotice("hold", null);
  else if (Number.isFinite(seconds)) showNotice("hold", `${reason} The next upload starts in ${seconds} s.`);
});
const compare = new Compare(() => queue.done);
const queue = new Queue(entries, uploads, (entry) => compare.open(entry));

watchDrops((files) => tray.add(files));
document.getElementById("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  const staged = tray.takeStartable();
  for (const one of staged) uploads.start(one);
  if (staged.length) {
    settings.expand(false);
    // Beside the form the queue is in view already.
    document.getElementById("queue").focus({ preventScroll: matchMedia("(min-width: 1000px)").matches });
  }
});
onForget(originals.forgetAll);

const isBusy = () => [...entries.all].some((entry) => entry.group === "active");
window.addEventListener("beforeunload", (event) => {
  // A job continues without the page, an upload does not.
  if ([...entries.all].some((entry) => ["waiting", "uploading"].includes(entry.status))) event.preventDefault();
});

const moved = () => new Promise((resolve) => entries.addEventListener("moved", resolve, { once: true }));

let hasModels = false;
followHealth(isBusy, moved, async (health) => {
  showHealth(health);
  const isLost = health === null;
  showNotice("connection", isLost ? "The server does not answer. The page tries again until it does." : null);
  if (isLost) return;
  const hasDetail = ["degraded", "failed", "draining"].includes(health.status);
  const sentences = { degraded: "The server is degraded.", failed: "The server has failed.", draining: "The server stops soon and takes no more pictures." };
  showNotice("server", hasDetail ? [sentences[health.status], health.detail].filter(Boolean).join(" ") : null);
  tray.limits = health.limits;
  const { max_request_mb: mb, max_input_megapixels: megapixels } = health.limits;
  document.getElementById("accepted").textContent =
    `PNG, JPEG, WebP, TIFF or AVIF, each up to ${mb} MB and ${megapixels} megapixels.`;
  if (!hasModels) {
    const listed = await getJson("models").catch(() => null);
    hasModels = listed !== null;
    if (hasModels) settings.setModels(listed.models);
  }
  settings.setMethods(health.methods, health.unavailable ?? {});
  if (health.has_pipeline) showPipeline(await getJson("images").catch(() => null));
});
followJobs(entries, (isConnected) => {
  if (isConnected) queue.setListed();
});
