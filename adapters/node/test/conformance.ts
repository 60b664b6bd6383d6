/** This client's driver for `python -m conformance`: steps on stdin, reports on stdout. */

import { createInterface } from "node:readline";

import { JobError, Upscaler } from "../src/index.js";
import type { HealthReport, JobRequest } from "../src/index.js";

interface Step {
  do: string;
  command: string[];
  close_timeout_s: number;
  job: JobRequest & { job_id: string };
  job_id: string;
  job_ids?: string[];
}

const EVENTS = new Set(["status", "accepted", "progress"]);
const aborts = new Map<string, AbortController>();
let upscaler: Upscaler | undefined;

function report(row: unknown): void {
  process.stdout.write(`${JSON.stringify(row)}\n`);
}

function start(step: Step): Upscaler {
  const closeTimeoutMs = step.close_timeout_s * 1000;
  const started = new Upscaler({ command: step.command, restart: false, closeTimeoutMs });
  started.on("message", (message) => {
    if (EVENTS.has(message.type)) report({ event: message });
  });
  return started;
}

function submit(up: Upscaler, job: Step["job"]): void {
  const id = job.job_id;
  const abort = new AbortController();
  aborts.set(id, abort);
  up.upscale(job, { signal: abort.signal }).then(
    (result) => report({ settled: id, result }),
    (error) =>
      report({ settled: id, ...(error instanceof JobError ? { error: error.details } : { gone: true }) }),
  );
}

function ask(did: string, answer: Promise<HealthReport>): void {
  answer.then(
    (health) => report({ did, answer: health }),
    () => report({ did, gone: true }),
  );
}

for await (const line of createInterface({ input: process.stdin })) {
  const step = JSON.parse(line) as Step;
  upscaler ??= start(step);
  switch (step.do) {
    case "submit":
      submit(upscaler, step.job);
      break;
    case "cancel":
      aborts.get(step.job_id)?.abort();
      break;
    case "health":
    case "trim":
      ask(step.do, upscaler[step.do]());
      break;
    case "replay":
      upscaler.replay(step.job_ids);
      break;
    case "close":
    case "kill":
      await upscaler[step.do]();
      report({ did: "close" });
      break;
  }
}
