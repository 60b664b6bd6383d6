/** What the tests share: a real daemon with the fake engine, bounded waits, and processes to look at. */

import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { Upscaler } from "../src/index.js";
import type { FakeConfig, JobRequest, UpscalerOptions } from "../src/index.js";

// Much longer than any test takes, also on a busy machine.
export const TIMEOUT_MS = 100_000;

/** `upscaled run --methods fake`, found in PATH. */
export function startFake(options: UpscalerOptions = {}): Promise<Upscaler> {
  return Upscaler.start({ args: ["--methods", "fake"], ...options });
}

/**
 * The command of a daemon in a few lines of JavaScript. `job`, `question` and `replay` handle what comes, with `message`
 * and `say`; `start` comes first of all, and ends it all with a `return`; `end` comes at the end of the input.
 */
export function scripted(handlers: Record<string, string>): string[] {
  const { start = "", job = "", question = "", replay = "", end = "process.exit(0);" } = handlers;
  const script = `
    const fs = require("node:fs");
    const say = (message) => fs.writeSync(1, JSON.stringify(message) + "\\n");
    const result = (job_id) => ({ type: "result", job_id, status: "completed", processing_time: 0, timings: {} });
    ${start}
    say({ type: "status", message: "ready", protocol: 1 });
    require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
      const message = JSON.parse(line);
      if (message.method) { ${job} }
      if (message.type === "health") { ${question} }
      if (message.type === "replay") { ${replay} }
    }).on("close", () => { ${end} });`;
  return [process.execPath, "-e", `(() => {${script}})()`];
}

/** Makes progress once, and then none, with a child process of its own. */
export const HANGS: FakeConfig = { steps: 2, at_step: 1, hang: true, spawn_sleeper: true };

// A daemon that runs such a job: the supervisor, the fork server, the worker and the child process.
const HANGING_FAMILY = 4;

export function fakeJob(config: FakeConfig = {}): JobRequest {
  return { method: "fake", config };
}

export async function waitUntil(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const end = Date.now() + TIMEOUT_MS;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`${what} did not come about`);
    await delay(10);
  }
}

export function isAlive(pid: number): boolean {
  try {
    // Z: it has exited, and its parent has not waited for it yet.
    return !/\) Z/.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

/** The process and all that descend from it. */
export function familyOf(pid: number): number[] {
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc").filter((one) => /^\d+$/.test(one))) {
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(")") + 4).split(" ")[0]));
    } catch {
      // It has ended meanwhile.
    }
  }
  const family = [pid];
  for (const one of family) {
    family.push(...[...parents].filter(([, parent]) => parent === one).map(([child]) => child));
  }
  return family;
}

/** The daemon's processes, once it has got as far in such a job as it ever will. */
export async function hangingFamilyOf({ pid = 0 }: Upscaler): Promise<number[]> {
  await waitUntil(() => familyOf(pid).length >= HANGING_FAMILY, "the job's child process");
  return familyOf(pid);
}

export function openFiles(): number {
  return readdirSync("/proc/self/fd").length;
}
