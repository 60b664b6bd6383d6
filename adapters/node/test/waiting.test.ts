/** Jobs that a daemon has no room for, or did not accept: they wait, and are sent again. */

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmdirSync, rmSync } from "node:fs";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { DaemonGoneError, JobError, Upscaler } from "../src/index.js";
import type { FakeConfig, JobRequest, Result, UpscalerOptions } from "../src/index.js";
import { fakeJob, scripted, startFake, TIMEOUT_MS } from "./daemons.js";

const folder = mkdtempSync(join(tmpdir(), "upscaled-node-"));
after(() => rmSync(folder, { recursive: true }));

// Holds two jobs, ends one at a time, and says in its last result how many lines came.
const SMALL = scripted({
  start: `
    const jobs = [];
    let lines = 0;
    let isEnd = false;
    setInterval(() => {
      const id = jobs.shift();
      if (id === undefined && isEnd) process.exit(0);
      if (id !== undefined) say({ ...result(id), scale_factor: lines });
    }, 0);`,
  job: `
    lines++;
    if (jobs.length === 2) {
      say({ type: "error", job_id: message.job_id, error: "2 jobs are in flight", code: "queue_full", retryable: true });
    } else {
      jobs.push(message.job_id);
      say({ type: "accepted", job_id: message.job_id, position: 0 });
    }`,
  end: "isEnd = true;",
});

/** A daemon whose first life begins with `first`, and whose later ones complete every job. */
function secondLife(first: string, options: UpscalerOptions = {}): Upscaler {
  const life = join(mkdtempSync(join(folder, "life-")), "first");
  const start = `
    const isFirst = !fs.existsSync(${JSON.stringify(life)});
    fs.writeFileSync(${JSON.stringify(life)}, "");
    if (isFirst) { ${first} }`;
  const job = "if (isFirst) handleJob(message); else say(result(message.job_id));";
  const command = scripted({ start, job, replay: "for (const id of message.job_ids) say(result(id));" });
  return new Upscaler({ command, restart: { delayMs: 1 }, ...options });
}

function goneOf(up: Upscaler): Promise<unknown> {
  return once(up, "gone");
}

test("jobs beyond a full queue wait, and each is refused about once", { timeout: TIMEOUT_MS }, async () => {
  await using up = new Upscaler({ command: SMALL });
  const order: string[] = [];
  const calls = Array.from({ length: 300 }, async (_, number) => {
    const result = await up.upscale({ ...fakeJob(), job_id: String(number) });
    order.push(result.job_id);
    return result;
  });
  const results = await Promise.all(calls);
  const lines = Math.max(...results.map(({ scale_factor = 0 }) => scale_factor));
  // The first burst is refused, and then one try per queue's length that ends.
  assert.ok(lines < 300 * 2.6, `${lines} lines for 300 jobs`);
  assert.equal(new Set(order).size, 300);
});

test("a job that waits for room can be aborted, and its deadline holds", { timeout: TIMEOUT_MS }, async () => {
  const command = scripted({
    start: "let jobs = 0;",
    job: 'say(jobs++ ? { type: "error", job_id: message.job_id, error: "full", code: "queue_full", retryable: true } : { type: "accepted", job_id: message.job_id, position: 0 });',
  });
  await using up = await Upscaler.start({ command, closeTimeoutMs: 20 });
  const first = up.upscale(fakeJob());
  const refused = new Promise<void>((resolve) => up.on("message", ({ type }) => type === "error" && resolve()));
  const abort = new AbortController();
  const second = up.upscale(fakeJob(), { signal: abort.signal });
  await refused;
  abort.abort();
  await assert.rejects(second, { code: "cancelled" });
  await assert.rejects(up.upscale({ ...fakeJob(), timeout_s: 0.01 }), { code: "deadline_exceeded" });
  const third = up.upscale(fakeJob());
  const settled = Promise.allSettled([first, third]);
  await up.close();
  for (const outcome of await settled) assert.ok(outcome.status === "rejected" && outcome.reason instanceof DaemonGoneError);
});

test("a full queue that holds no job of this client is reported", { timeout: TIMEOUT_MS }, async () => {
  const job = 'say({ type: "error", job_id: message.job_id, error: "full", code: "queue_full", retryable: true });';
  await using up = new Upscaler({ command: scripted({ job }) });
  await assert.rejects(up.upscale(fakeJob()), { code: "queue_full", retryable: true });
});

test("a close lets jobs that wait for room finish", { timeout: TIMEOUT_MS }, async () => {
  const up = await Upscaler.start({ command: SMALL, closeTimeoutMs: TIMEOUT_MS });
  const calls = Array.from({ length: 20 }, () => up.upscale(fakeJob()));
  const first = await Promise.race(calls);
  assert.equal(first.status, "completed");
  const results = Promise.all(calls);
  await up.close();
  assert.equal((await results).length, 20);
});

test("calls far beyond the daemon's queue all complete", { timeout: TIMEOUT_MS }, async () => {
  for (const [queue, length] of [["4", 200], ["500", 3000]] as const) {
    await using up = await startFake({ args: ["--methods", "fake", "--max-queue", queue] });
    const calls = Array.from({ length }, () => up.upscale(fakeJob({ steps: 0 })));
    for (const { status } of await Promise.all(calls)) assert.equal(status, "completed");
  }
});

test("a job given before a first start that fails is run by the next daemon", { timeout: TIMEOUT_MS }, async () => {
  for (const first of ["process.exit(3);", "process.stdin.once('data', () => process.exit(1)); return;"]) {
    await using up = secondLife(first);
    const gone = goneOf(up);
    const calls = Array.from({ length: 3 }, () => up.upscale(fakeJob()));
    await gone;
    for (const result of await Promise.all(calls)) assert.equal(result.status, "completed");
  }
});

test("a replay that is asked for while there is no daemon is the next one's", { timeout: TIMEOUT_MS }, async () => {
  await using up = secondLife("process.exit(3);");
  const ended: string[] = [];
  up.on("message", (message) => message.type === "result" && ended.push(message.job_id));
  up.once("gone", () => up.replay(["kept"]));
  const { job_id } = await up.upscale(fakeJob());
  assert.deepEqual(ended, ["kept", job_id]);
});

test("a job that was accepted ends with its daemon, with an error to retry; one that was not does not", { timeout: TIMEOUT_MS }, async () => {
  const first = `
    globalThis.handleJob = ({ job_id }) => {
      if (job_id === "accepted") say({ type: "accepted", job_id, position: 0 });
      if (job_id === "running") say({ type: "progress", job_id, progress: 1, stage: "load" });
      if (job_id === "unread") process.kill(process.pid, "SIGKILL");
    };`;
  await using up = secondLife(first);
  await up.ready();
  const run = (job_id: string): Promise<Result> => up.upscale({ ...fakeJob(), job_id });
  const [accepted, running, unread] = await Promise.allSettled([run("accepted"), run("running"), run("unread")]);
  for (const outcome of [accepted, running]) {
    assert.ok(outcome.status === "rejected" && outcome.reason instanceof DaemonGoneError);
    assert.equal(outcome.reason.retryable, true);
  }
  assert.equal(unread.status, "fulfilled");
});

test("a job that a draining daemon refuses is run by the next one", { timeout: TIMEOUT_MS }, async () => {
  const refuse = 'say({ type: "error", job_id: message.job_id, error: "draining", code: "shutting_down", retryable: true });';
  const first = `globalThis.handleJob = (message) => { ${refuse} setTimeout(() => process.exit(0), 50); };`;
  await using up = secondLife(first);
  assert.equal((await up.upscale(fakeJob())).status, "completed");
  // Without a next daemon the error is reported.
  await using last = new Upscaler({ command: scripted({ job: refuse }), restart: false });
  await assert.rejects(last.upscale(fakeJob()), { code: "shutting_down" });
});

test("a job that ends every daemon before it is accepted is given up", { timeout: TIMEOUT_MS }, async () => {
  const job = 'if (message.config.model) process.exit(1); else say(result(message.job_id));';
  await using up = new Upscaler({ command: scripted({ job }), restart: { attempts: 2, delayMs: 1 } });
  let ends = 0;
  up.on("gone", () => ends++);
  const run = (config: FakeConfig): Promise<Result> => up.upscale(fakeJob(config));
  await assert.rejects(run({ model: "deadly" }), DaemonGoneError);
  assert.equal(ends, 2);
  assert.equal((await run({})).status, "completed");
});

test("a working directory that does not exist is named, and one that comes back is used", { timeout: TIMEOUT_MS }, async () => {
  const cwd = join(folder, "release");
  await assert.rejects(startFake({ cwd }), (error: Error) => error instanceof DaemonGoneError && error.message.includes(cwd));
  await assert.rejects(startFake({ cwd: process.execPath }), (error: Error) => error.message.includes(process.execPath));
  mkdirSync(cwd);
  await using up = await Upscaler.start({ command: scripted({ job: "say(result(message.job_id));" }), cwd, restart: { delayMs: 1, attempts: 50, maxDelayMs: 20 } });
  rmdirSync(cwd);
  let ends = 0;
  up.on("gone", () => {
    if (++ends === 3) mkdirSync(cwd);
  });
  process.kill(up.pid ?? 0, "SIGKILL");
  assert.equal((await up.upscale(fakeJob())).status, "completed");
  assert.ok(ends >= 3);
});

test("a status 2 of a daemon that was ready is no wrong usage", { timeout: TIMEOUT_MS }, async () => {
  await using up = secondLife('say({ type: "status", message: "ready", protocol: 1 }); process.exit(2);');
  assert.equal((await up.upscale(fakeJob())).status, "completed");
});

test("a command that cannot be spawned is reported", { timeout: TIMEOUT_MS }, async () => {
  const up = new Upscaler({ command: ["a\0program"] });
  const job: JobRequest = fakeJob();
  await assert.rejects(up.upscale(job), (error: unknown) => error instanceof DaemonGoneError && !(error instanceof JobError));
  await assert.rejects(up.ready(), /cannot be started/);
});
