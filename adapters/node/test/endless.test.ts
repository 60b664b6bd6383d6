/** Daemons that answer late, wrongly or never: every call ends all the same. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { DaemonGoneError, JobError, NoAnswerError, Upscaler } from "../src/index.js";
import type { CallOptions, JobRequest, UpscalerOptions } from "../src/index.js";
import { fakeJob, HANGS, scripted, startFake, TIMEOUT_MS, waitUntil } from "./daemons.js";
import { Random } from "./random.js";

const ACCEPT = 'say({ type: "accepted", job_id: message.job_id, position: 0 });';

// What a daemon may do about a job, other than to end it.
const ANSWERS = {
  silence: "",
  accepted: ACCEPT,
  progress: ACCEPT + 'say({ type: "progress", job_id: message.job_id, progress: 1, stage: "load" });',
  "an error without an id": 'say({ type: "error", job_id: null, error: "bad line", code: "invalid_json", retryable: false });',
  "an error that names it as refused":
    'say({ type: "error", job_id: null, refused_job_id: message.job_id, error: "twice", code: "duplicate_job", retryable: false });',
  "another job's result": 'say(result("another"));',
  "an id of another type": "say(result(7)); say(result([message.job_id])); say(result({}));",
  garbage: 'fs.writeSync(1, "[]\\nnull\\n{}\\n\\u0000\\n" + line + "\\n");',
};

// Does what the job's `steps` say; the last two are the ones that end it, or the daemon.
const UNRULY = `
  const answers = [
    ${Object.values(ANSWERS).map((answer) => `() => { ${answer} }`)},
    () => say(result(message.job_id)),
    () => process.kill(process.pid, 9),
  ];
  answers[message.config.steps]();`;
const KINDS = Object.keys(ANSWERS).length;

const SHORT: UpscalerOptions = { cancelGraceMs: 20, closeTimeoutMs: 20, restart: false };

/** A client whose daemon is ready. */
function startWith(job: string): Promise<Upscaler> {
  return Upscaler.start({ command: scripted({ job }), ...SHORT });
}

function isCode(code: string, sentence = /./): (error: unknown) => boolean {
  return (error) => error instanceof JobError && error.code === code && sentence.test(error.message);
}

test("an abort, a deadline and a close end a call, whatever its daemon answers", { timeout: TIMEOUT_MS }, async () => {
  const up = await startWith(UNRULY);
  const open: Promise<unknown>[] = [up.health()];
  for (const [steps, name] of Object.keys(ANSWERS).entries()) {
    const job: JobRequest = { ...fakeJob({ steps }), job_id: name };
    const abort = new AbortController();
    const call = up.upscale(job, { signal: abort.signal });
    const reason = new Error("the user left");
    abort.abort(reason);
    await assert.rejects(call, (error: Error) => isCode("cancelled", /did not confirm/)(error) && error.cause === reason);
    // The daemon may still have it.
    await assert.rejects(up.upscale(job), isCode("duplicate_job"));
    await assert.rejects(up.upscale({ ...fakeJob({ steps }), timeout_s: 0.01 }), isCode("deadline_exceeded", /0.01 s/));
    open.push(up.upscale(fakeJob({ steps })));
  }
  const settled = Promise.allSettled(open);
  await up.close();
  for (const outcome of await settled) assert.ok(outcome.status === "rejected" && outcome.reason instanceof DaemonGoneError);
});

test("a kill ends a call, whatever its daemon answers", { timeout: TIMEOUT_MS }, async () => {
  const up = await startWith(UNRULY);
  const open: Promise<unknown>[] = [up.health(), up.trim()];
  for (let steps = 0; steps < KINDS; steps++) open.push(up.upscale(fakeJob({ steps })));
  const settled = Promise.allSettled(open);
  await up.kill();
  for (const outcome of await settled) assert.ok(outcome.status === "rejected" && outcome.reason instanceof DaemonGoneError);
});

test("a stopped daemon holds up no abort, no deadline, no question and no close", { timeout: TIMEOUT_MS }, async () => {
  const up = await startFake(SHORT);
  const abort = new AbortController();
  const stop = (): void => {
    process.kill(up.pid ?? 0, "SIGSTOP");
    abort.abort();
  };
  const running = up.upscale(fakeJob(HANGS), { signal: abort.signal, onProgress: stop });
  await assert.rejects(running, isCode("cancelled"));
  await assert.rejects(up.upscale({ ...fakeJob(), timeout_s: 0.01 }), isCode("deadline_exceeded"));
  // More than its pipe and we hold: some wait in the client.
  const calls = Array.from({ length: 300 }, () => up.upscale(fakeJob({ print_text: "x".repeat(1000) })));
  await assert.rejects(up.health({ timeoutMs: 10 }), NoAnswerError);
  const settled = Promise.allSettled(calls);
  await up.close();
  for (const outcome of await settled) assert.ok(outcome.status === "rejected" && outcome.reason instanceof DaemonGoneError);
});

test("an answer that comes after the call's end harms no other call", { timeout: TIMEOUT_MS }, async () => {
  const release = 'if (message.job_id === "1") return; say(result("1")); say(result("1")); say(result(message.job_id));';
  await using up = await startWith(release);
  const first = up.upscale({ ...fakeJob(), job_id: "1" }, { signal: AbortSignal.timeout(1) });
  await assert.rejects(first, isCode("cancelled"));
  assert.equal((await up.upscale({ ...fakeJob(), job_id: "2" })).job_id, "2");
  // Its late end has set its id free.
  const third = up.upscale({ ...fakeJob(), job_id: "1" }, { signal: AbortSignal.timeout(1) });
  await assert.rejects(third, isCode("cancelled"));
});

test("an abort that the daemon obeys ends with the daemon's own words", { timeout: TIMEOUT_MS }, async () => {
  const line = 'require("node:process").stdin.on("data", (data) => String(data).includes("cancel") && say({ type: "error", job_id: "1", error: "as told", code: "cancelled", retryable: false }));';
  await using up = await Upscaler.start({ command: scripted({ start: line, job: ACCEPT }) });
  const abort = new AbortController();
  up.on("message", ({ type }) => type === "accepted" && abort.abort());
  await assert.rejects(up.upscale({ ...fakeJob(), job_id: "1" }, { signal: abort.signal }), isCode("cancelled", /^as told$/));
});

test("timeout_s bounds the wait for a daemon too", { timeout: TIMEOUT_MS }, async () => {
  const restart = { attempts: 2, delayMs: TIMEOUT_MS, maxDelayMs: TIMEOUT_MS };
  await using up = new Upscaler({ command: ["sh", "-c", "exit 3"], restart });
  const gone = new Promise((resolve) => up.once("gone", resolve));
  await gone;
  await assert.rejects(up.upscale({ ...fakeJob(), timeout_s: 0.01 }), isCode("deadline_exceeded"));
});

test("a daemon that closes its stdin and does not exit is replaced, and loses no job", { timeout: TIMEOUT_MS }, async () => {
  const file = `/tmp/upscaled-deaf-${process.pid}`;
  const start = `
    if (!fs.existsSync(${JSON.stringify(file)})) {
      fs.writeFileSync(${JSON.stringify(file)}, "");
      fs.closeSync(0);
      say({ type: "status", message: "ready", protocol: 1 });
      setInterval(() => {}, 1000);
      return;
    }
    fs.rmSync(${JSON.stringify(file)});`;
  await using up = new Upscaler({
    command: scripted({ start, job: "say(result(message.job_id));" }),
    closeTimeoutMs: 20,
    restart: { delayMs: 1 },
  });
  await up.ready();
  const calls = Array.from({ length: 5 }, () => up.upscale(fakeJob()));
  for (const result of await Promise.all(calls)) assert.equal(result.status, "completed");
});

test("answers find their questions by id, in any order", { timeout: TIMEOUT_MS }, async () => {
  // Answers in pairs, the second question first.
  const question = `
    globalThis.first ??= message;
    if (globalThis.first === message) return;
    for (const { request_id } of [message, globalThis.first]) {
      say({ type: "health", request_id, status: "ok", queue_size: Number(request_id), uptime_s: 0 });
    }
    globalThis.first = undefined;`;
  await using up = await Upscaler.start({ command: scripted({ question }), ...SHORT });
  const [first, second] = await Promise.all([up.health(), up.health()]);
  assert.ok(first.queue_size < second.queue_size);
  // The answer to a question that was given up settles no other one.
  const abort = new AbortController();
  const givenUp = up.health({ signal: abort.signal });
  abort.abort(new Error("the probe has ended"));
  await assert.rejects(givenUp, /the probe has ended/);
  await assert.rejects(up.trim({ signal: abort.signal }), /the probe has ended/);
  const third = await up.health();
  assert.ok(third.queue_size > second.queue_size);
});

test("a daemon that knows no request_id answers in the order of asking", { timeout: TIMEOUT_MS }, async () => {
  const start = "let asked = 0;";
  const question = 'say({ type: "health", status: "ok", queue_size: ++asked, uptime_s: 0 });';
  await using up = await Upscaler.start({ command: scripted({ start, question }), ...SHORT });
  const reports = await Promise.all([up.health(), up.health(), up.health()]);
  assert.deepEqual(reports.map((report) => report.queue_size), [1, 2, 3]);
});

test("every call to an unruly daemon settles, whatever its caller does", { timeout: TIMEOUT_MS }, async () => {
  for (let seed = 0; seed < 6; seed++) {
    const random = new Random(seed);
    const up = new Upscaler({ command: scripted({ job: UNRULY }), ...SHORT, restart: { attempts: 2, delayMs: 1 } });
    const calls = Array.from({ length: 30 }, () => {
      const kind = random.below(4);
      const steps = random.below(KINDS + random.one([1, 1, 2]));
      const job: JobRequest = { method: "fake", config: { steps }, ...(kind === 0 && { timeout_s: 0.01 }) };
      const options: CallOptions = kind === 1 ? { signal: AbortSignal.timeout(random.below(20)) } : {};
      return up.upscale(job, options);
    });
    let settled = 0;
    for (const call of calls) void call.catch(() => {}).finally(() => settled++);
    if (random.below(2) === 0) await waitUntil(() => settled > random.below(10), "the end of some calls");
    await (random.below(2) === 0 ? up.close() : up.kill());
    await Promise.allSettled(calls);
    assert.equal(settled, 30, `seed ${seed}`);
  }
});

test("times without a limit are waited for", { timeout: TIMEOUT_MS }, async () => {
  const command = scripted({
    start: "const ids = [];",
    job: `ids.push(message.job_id); say({ type: "accepted", job_id: message.job_id, position: 0 });`,
    end: "setTimeout(() => { for (const id of ids) say(result(id)); process.exit(0); }, 50);",
  });
  const up = await Upscaler.start({ command, closeTimeoutMs: Infinity, cancelGraceMs: Infinity });
  const abort = new AbortController();
  const calls = [up.upscale(fakeJob(), { signal: abort.signal }), up.upscale(fakeJob())];
  const settled = Promise.allSettled(calls);
  abort.abort();
  await up.close();
  for (const { status } of await settled) assert.equal(status, "fulfilled");
});
