// The header's summary of the server: state, queue, workers, memory.

import { count, duration } from "./format.js";

const root = document.getElementById("glance");
const part = (name) => root.querySelector(`[data-part=${name}]`);
const dot = root.querySelector(".dot");

const STATES = {
  ok: "Ready",
  loading: "Loading models",
  degraded: "Degraded",
  draining: "Stopping",
  failed: "Failed",
};
const WORKER_STATES = {
  starting: "starting",
  ready: "idle",
  busy: "busy",
  unresponsive: "does not answer",
  draining: "stopping",
  backoff: "restarts soon",
  stopped: "stopped",
};

root.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !root.open) return;
  root.open = false;
  root.querySelector("summary").focus();
});
document.addEventListener("pointerdown", (event) => {
  if (!root.contains(event.target)) root.open = false;
});

/** Show a report of `/api/health`, or null if the server does not answer. */
export function showHealth(health) {
  dot.dataset.state = health?.status ?? "unreachable";
  part("status").textContent = health ? (STATES[health.status] ?? health.status) : "No connection";
  part("detail").hidden = !health?.detail;
  part("detail").textContent = health?.detail ?? "";
  const workers = health?.workers ?? [];
  const memory = memoryText(health, workers);
  part("queue").textContent = health ? queueText(health) : "";
  root.classList.toggle("is-busy", Boolean(health?.in_flight));
  part("workers").textContent = workers.length ? count(workers.length, "worker") : "";
  part("memory").textContent = memory;
  part("facts").replaceChildren(...(health ? facts(health, memory).flatMap(pair) : []));
  part("rows").replaceChildren(...workers.map(row));
}

function running(health) {
  return Math.max(0, health.in_flight - health.queue_size);
}

function queueText(health) {
  if (!health.in_flight && !health.queue_size) return "Queue empty";
  return `${running(health)} running, ${health.queue_size} waiting`;
}

function memoryText(health, workers) {
  if (health?.gpu_available && health.gpu_memory_free != null) {
    return `${health.gpu_memory_free.toFixed(1)} GB of GPU memory free`;
  }
  const used = workers.reduce((sum, worker) => sum + (worker.rss_mb ?? 0), 0);
  return used ? megabytes(used) : "";
}

function megabytes(mb) {
  return mb < 1000 ? `${Math.round(mb)} MB` : `${(mb / 1000).toFixed(1)} GB`;
}

function facts(health, memory) {
  const limits = health.limits;
  return [
    ["Queue", `${running(health)} running, ${health.queue_size} waiting, at most ${limits.max_queue}`],
    ["Device", health.gpu_name ?? health.device],
    ["Memory", memory],
    ["Models in memory", health.models_loaded.join(", ") || "none yet"],
    ["Running for", duration(health.uptime_s)],
    ["Restarts of the daemon", health.daemon_restarts || null],
    ["Version", health.version],
  ].filter(([, value]) => value);
}

function pair([name, value]) {
  const term = document.createElement("dt");
  const description = document.createElement("dd");
  term.textContent = name;
  description.textContent = value;
  return [term, description];
}

function row(worker) {
  const item = document.createElement("li");
  const name = document.createElement("strong");
  name.textContent = `Worker ${worker.worker}`;
  const parts = [
    WORKER_STATES[worker.state] ?? worker.state,
    worker.device,
    worker.rss_mb ? megabytes(worker.rss_mb) : null,
    count(worker.jobs_done, "job") + " done",
    worker.restarts ? count(worker.restarts, "restart") : null,
  ];
  item.dataset.state = worker.state;
  item.append(name, ` ${parts.filter(Boolean).join(", ")}`);
  return item;
}
