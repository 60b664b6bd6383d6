/** This client's driver for `python -m conformance`: steps on stdin, reports on stdout. */

import { createInterface } from "node:readline";

import { HttpUpscaler } from "../src/http/index.js";
import { JobError, NoAnswerError, Upscaler } from "../src/index.js";
import type { AskOptions, HealthReport, JobRequest } from "../src/index.js";

type StepJob = JobRequest & { job_id: string; config: Record<string, unknown> };

interface Step {
  do: string;
  command: string[];
  // Of a case over HTTP, in place of the command.
  url?: string;
  key?: string | null;
  attempts?: number;
  close_timeout_s: number;
  cancel_grace_s?: number;
  deadline_s?: number;
  job: StepJob;
  spoil?: keyof typeof SPOILERS;
  job_id: string;
  job_ids?: string[];
}

// What JSON cannot say of a job.
const SPOILERS = {
  id: (job: StepJob) => ({ ...job, job_id: `${job.job_id}\ud83d` }),
  text: (job: StepJob) => withConfig(job, { output_text: `${job.config["output_text"]}\ud83d` }),
  size: (job: StepJob) => withConfig(job, { output_text: "x".repeat(32 * 1024 * 1024) }),
  value: (job: StepJob) => withConfig(job, { step_s: NaN }),
  path: (job: StepJob) => withConfig(job, { output_path: `${job.config["output_path"]}\udcff` }),
};

const EVENTS = new Set(["status", "accepted", "progress"]);
const aborts = new Map<string, AbortController>();
let upscaler: Upscaler | HttpUpscaler | undefined;

function withConfig(job: StepJob, more: object): StepJob {
  return { ...job, config: { ...job.config, ...more } } as StepJob;
}

function report(row: unknown): void {
  process.stdout.write(`${JSON.stringify(row)}\n`);
}

function start({ command, url, key, attempts = 0, close_timeout_s, cancel_grace_s = 25 }: Step): Upscaler | HttpUpscaler {
  const retry = attempts > 0 && { attempts, delayMs: 1 };
  const times = { closeTimeoutMs: close_timeout_s * 1000, cancelGraceMs: cancel_grace_s * 1000 };
  if (url !== undefined) return new HttpUpscaler({ url, key: key ?? undefined, retry, ...times });
  const started = new Upscaler({ command, restart: retry, ...times });
  started.on("message", (message) => {
    if (EVENTS.has(message.type)) report({ event: message });
  });
  return started;
}

function submit(up: Upscaler | HttpUpscaler, { job, spoil, deadline_s }: Step): void {
  const settled = job.job_id;
  const abort = new AbortController();
  aborts.set(settled, abort);
  const deadline = deadline_s === undefined ? [] : [AbortSignal.timeout(deadline_s * 1000)];
  const signal = AbortSignal.any([abort.signal, ...deadline]);
  const request = spoil === undefined ? job : SPOILERS[spoil](job);
  // The client that starts its daemon reports progress by its messages.
  const onProgress = up instanceof HttpUpscaler ? { onProgress: (event: unknown) => report({ event }) } : {};
  up.upscale(request as JobRequest, { signal, ...onProgress }).then(
    (result) => report({ settled, result }),
    (error) => report({ settled, ...(error instanceof JobError ? { error: error.details } : { gone: true }) }),
  );
}

function question(up: Upscaler | HttpUpscaler, what: "health" | "trim", options: AskOptions): Promise<HealthReport> {
  return what === "trim" && up instanceof Upscaler ? up.trim(options) : up.health(options);
}

function ask(did: string, answer: Promise<HealthReport>): void {
  answer.then(
    (health) => report({ did, answer: health }),
    (error) => report({ did, ...(error instanceof NoAnswerError ? { late: true } : { gone: true }) }),
  );
}

for await (const line of createInterface({ input: process.stdin })) {
  const step = JSON.parse(line) as Step;
  if (step.do === "start") upscaler = start(step);
  if (upscaler === undefined) continue;
  switch (step.do) {
    case "submit":
      submit(upscaler, step);
      break;
    case "cancel":
      aborts.get(step.job_id)?.abort();
      break;
    case "health":
    case "trim":
      ask(step.do, question(upscaler, step.do, step.deadline_s === undefined ? {} : { timeoutMs: step.deadline_s * 1000 }));
      break;
    case "replay":
      if (upscaler instanceof Upscaler) upscaler.replay(step.job_ids);
      break;
    case "close":
    case "kill":
      await upscaler[step.do]();
      report({ did: "close" });
      break;
  }
}
