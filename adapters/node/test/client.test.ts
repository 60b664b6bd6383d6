import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { getEventListeners, once } from "node:events";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";

import { DaemonGoneError, ERROR_CODES, JobError, Upscaler } from "../src/index.js";
import type { CallOptions, ErrorCode, FakeConfig, LogRecord, Progress, Result } from "../src/index.js";
import { familyOf, fakeJob, hangingFamilyOf, HANGS, isAlive } from "./daemons.js";
import { openFiles, startFake, TIMEOUT_MS, waitUntil } from "./daemons.js";

const IN_FLIGHT = 64;

/** Runs that many jobs, 64 at a time. */
async function runMany(jobs: number, run: (number: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < jobs) await run(next++);
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, lane));
}

/** Starts a job, and waits until it has made progress. */
function startRunning(up: Upscaler, config: FakeConfig): Promise<{ call: Promise<Result> }> {
  return new Promise((resolve, reject) => {
    const call = up.upscale(fakeJob(config), { onProgress: () => resolve({ call }) });
    call.catch(reject);
  });
}

/** A script of a virtual environment that was moved. */
function movedScript(): string {
  const path = join(mkdtempSync(join(tmpdir(), "upscaled-node-")), "upscaled");
  writeFileSync(path, "#!/no/such/python\n", { mode: 0o755 });
  return path;
}

function isCode(code: ErrorCode): (error: unknown) => boolean {
  return (error) => error instanceof JobError && error.code === code;
}

/** Starts host.js. Returns its process and the processes of its daemon. */
async function startHost(mood: string): Promise<{ host: ReturnType<typeof spawn>; family: number[] }> {
  const path = new URL("host.js", import.meta.url).pathname;
  const host = spawn(process.execPath, [path, mood], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(createInterface({ input: host.stdout }), "line")) as [string];
  return { host, family: JSON.parse(line) as number[] };
}

test("a thousand jobs, 64 in flight, each get their own result", { timeout: TIMEOUT_MS }, async () => {
  await using up = await startFake();
  const models = new Set<string | null | undefined>();
  await runMany(1000, async (number) => {
    const result = await up.upscale({ ...fakeJob({ model: `m${number % 7}` }), job_id: `job ${number}` });
    assert.equal(result.job_id, `job ${number}`);
    assert.equal(result.model, `m${number % 7}`);
    models.add(result.model);
  });
  assert.equal(models.size, 7);
});

test("progress comes in order, before the result", { timeout: TIMEOUT_MS }, async () => {
  await using up = await startFake();
  const seen: Progress[] = [];
  await up.upscale(fakeJob({ steps: 5, step_s: 0.01 }), { onProgress: (progress) => seen.push(progress) });
  assert.ok(seen.length > 0);
  const percents = seen.map(({ progress }) => progress);
  assert.deepEqual(percents, percents.toSorted((a, b) => a - b));
});

test("every error code of the protocol arrives as a JobError", { timeout: TIMEOUT_MS }, async () => {
  await using up = await startFake();
  for (const code of Object.keys(ERROR_CODES) as ErrorCode[]) {
    await assert.rejects(up.upscale(fakeJob({ error_code: code })), (error: unknown) => {
      assert.ok(error instanceof JobError);
      assert.equal(error.code, code);
      assert.equal(error.retryable, ERROR_CODES[code].retryable);
      return true;
    });
  }
});

test("a rejected call's stack begins with its caller's line", { timeout: TIMEOUT_MS }, async () => {
  const up = await startFake({ restart: false });
  const callOf = async (options: CallOptions, config: FakeConfig): Promise<Result> => {
    return up.upscale(fakeJob(config), options);
  };
  const isMarked = (error: unknown): boolean => {
    const { stack = "", name, message } = error as Error;
    const [first, second = ""] = stack.slice(`${name}: ${message}`.length).split("\n");
    return stack.startsWith(`${name}: ${message}`) && first === "" && /^    at callOf \(.*client\.test/.test(second);
  };
  await assert.rejects(callOf({}, { error_code: "internal" }), isMarked);
  await assert.rejects(callOf({ signal: AbortSignal.timeout(1) }, { hang: true }), isMarked);
  await assert.rejects(callOf({ signal: AbortSignal.abort() }, {}), isMarked);
  const calls = [callOf({}, { hang: true }), callOf({}, { hang: true })];
  const settled = Promise.allSettled([...calls, up.health()]);
  process.kill(up.pid ?? 0, "SIGKILL");
  const [first, second] = await settled;
  for (const outcome of [first, second]) assert.ok(outcome?.status === "rejected" && isMarked(outcome.reason));
  await assert.rejects(callOf({}, {}), isMarked);
  await up.close();
});

test("an abort cancels the job, running, waiting or not yet begun", { timeout: TIMEOUT_MS }, async () => {
  await using up = await startFake();
  const reason = new Error("the user left");
  const running = new AbortController();
  const call = up.upscale(fakeJob({ ...HANGS, spawn_sleeper: false }), {
    signal: running.signal,
    onProgress: () => running.abort(reason),
  });
  await assert.rejects(call, (error: unknown) => isCode("cancelled")(error) && (error as Error).cause === reason);
  await assert.rejects(up.upscale(fakeJob(), { signal: AbortSignal.abort() }), isCode("cancelled"));
  const result = await up.upscale(fakeJob(), { signal: new AbortController().signal });
  assert.equal(result.status, "completed");
});

test("a storm of cancels settles every call once", { timeout: TIMEOUT_MS }, async () => {
  await using up = await startFake();
  up.setMaxListeners(0);
  let settled = 0;
  const calls = Array.from({ length: 300 }, async (_, number) => {
    const abort = new AbortController();
    if (number % 3 === 0) setImmediate(() => abort.abort());
    if (number % 3 === 1) up.on("message", function listen(message) {
      if (message.type !== "accepted" || message.job_id !== String(number)) return;
      up.off("message", listen);
      abort.abort();
    });
    try {
      return await up.upscale({ ...fakeJob({ steps: 2 }), job_id: String(number) }, { signal: abort.signal });
    } catch (error) {
      assert.ok(isCode("cancelled")(error), String(error));
      return undefined;
    } finally {
      settled++;
    }
  });
  const results = await Promise.all(calls);
  assert.equal(settled, 300);
  for (const number of results.keys()) {
    if (number % 3 === 2) assert.equal(results[number]?.status, "completed");
  }
  assert.equal((await up.health()).in_flight, 0);
});

test("a killed worker loses no job", { timeout: TIMEOUT_MS }, async () => {
  await using up = await startFake();
  const first = await up.upscale(fakeJob({ signal: 9, only_on_attempt: 1 }));
  assert.equal(first.attempt, 2);
  // It holds the device until its worker is killed, and the others wait behind it.
  const { call } = await startRunning(up, { steps: 2, at_step: 1, hang: true, only_on_attempt: 1 });
  const calls = [call, ...Array.from({ length: 50 }, () => up.upscale(fakeJob()))];
  const report = await up.health();
  process.kill(report.workers?.[0]?.pid ?? assert.fail("no worker"), "SIGKILL");
  assert.equal((await Promise.all(calls)).length, 51);
});

test("a killed daemon settles every open call, and is started again", { timeout: TIMEOUT_MS }, async () => {
  await using up = await startFake();
  await up.upscale(fakeJob());
  const family = familyOf(up.pid ?? 0);
  const calls = Array.from({ length: 20 }, () => up.upscale(fakeJob({ hang: true })));
  let accepted = 0;
  up.on("message", ({ type }) => type === "accepted" && accepted++);
  await waitUntil(() => accepted === calls.length, "the jobs' acceptance");
  process.kill(up.pid ?? 0, "SIGKILL");
  // Asked before the client can know of its end, and too late for an answer.
  const questions = [up.health(), up.trim()];
  for (const outcome of await Promise.allSettled([...calls, ...questions])) {
    assert.equal(outcome.status, "rejected");
    assert.ok(outcome.reason instanceof DaemonGoneError);
    assert.equal(outcome.reason.signal, "SIGKILL");
    assert.equal(outcome.reason.retryable, true);
  }
  assert.equal((await up.upscale(fakeJob())).status, "completed");
  await waitUntil(() => !family.some(isAlive), "the end of the first daemon's processes");
});

test("a daemon that never gets ready is given up, with the end of its log", { timeout: TIMEOUT_MS }, async () => {
  const restart = { attempts: 3, delayMs: 1 };
  const command = ["sh", "-c", "echo no such model >&2; exit 3"];
  await assert.rejects(Upscaler.start({ command, restart }), DaemonGoneError);
  const up = new Upscaler({ command, restart });
  let ends = 0;
  up.on("gone", () => ends++);
  const call = up.upscale(fakeJob());
  await assert.rejects(call, DaemonGoneError);
  await assert.rejects(up.ready(), /status 3.*\n.*no such model/);
  await assert.rejects(up.upscale(fakeJob()), DaemonGoneError);
  assert.equal(ends, 3);
});

test("wrong usage and a missing program are reported at once", { timeout: TIMEOUT_MS }, async () => {
  const wrong = new Upscaler({ args: ["--methods", "fake", "--no-such-option"] });
  let ends = 0;
  wrong.on("gone", () => ends++);
  await assert.rejects(wrong.ready(), (error: unknown) => error instanceof DaemonGoneError && error.status === 2);
  assert.equal(ends, 1);
  const missing: [string, RegExp][] = [
    ["/no/such/program", /cannot be started: \/no\/such\/program does not exist: install upscaled, or .* `command`/],
    ["no-such-program", /no-such-program is not in PATH: install/],
    [movedScript(), /names an interpreter that does not exist/],
  ];
  for (const [program, sentence] of missing) await assert.rejects(Upscaler.start({ command: [program] }), sentence);
});

test("a close lets accepted jobs finish and refuses new ones", { timeout: TIMEOUT_MS }, async () => {
  const up = await startFake();
  const family = familyOf(up.pid ?? 0);
  const call = up.upscale(fakeJob({ steps: 5, step_s: 0.02 }));
  const closed = up.close();
  await assert.rejects(up.upscale(fakeJob()), isCode("shutting_down"));
  await assert.rejects(up.health(), DaemonGoneError);
  assert.equal((await call).status, "completed");
  await closed;
  await waitUntil(() => !family.some(isAlive), "the end of the daemon's processes");
});

test("a kill ends what a job has started, at once", { timeout: TIMEOUT_MS }, async () => {
  const up = await startFake();
  await startRunning(up, HANGS);
  const family = await hangingFamilyOf(up);
  await up.kill();
  await waitUntil(() => !family.some(isAlive), "the end of the daemon's processes");
});

test("a host killed with kill -9 leaves no descendant", { timeout: TIMEOUT_MS }, async () => {
  const { host, family } = await startHost("hang");
  assert.ok(family.every(isAlive));
  host.kill("SIGKILL");
  await waitUntil(() => !family.some(isAlive), "the end of the daemon's processes");
});

test("an idle daemon does not keep its host alive", { timeout: TIMEOUT_MS }, async () => {
  const { host, family } = await startHost("idle");
  const [status] = (await once(host, "exit")) as [number];
  assert.equal(status, 0);
  await waitUntil(() => !family.some(isAlive), "the end of the daemon's processes");
});

test("thousands of requests leave no listener and no open file behind", { timeout: TIMEOUT_MS }, async () => {
  await using up = await startFake();
  const { signal } = new AbortController();
  const request = (): Promise<Result> => up.upscale(fakeJob({ steps: 0 }), { signal });
  const count = (): number[] => [
    openFiles(),
    process.getActiveResourcesInfo().length,
    getEventListeners(signal, "abort").length,
    up.eventNames().length,
  ];
  await runMany(200, request);
  const before = count();
  await runMany(2000, request);
  // What an earlier test left may have been closed meanwhile.
  const isNoMore = (): boolean => count().every((now, at) => now <= (before[at] ?? 0));
  await waitUntil(isNoMore, `no more than ${before} of files, resources and listeners`);
});

test("calls that share one signal leave it one listener, and are all cancelled by it", { timeout: TIMEOUT_MS }, async () => {
  await using up = await startFake();
  const abort = new AbortController();
  const warnings: Error[] = [];
  const note = (warning: Error): unknown => warnings.push(warning);
  process.on("warning", note);
  const calls = Array.from({ length: 50 }, () => up.upscale(fakeJob({ hang: true }), { signal: abort.signal }));
  assert.equal(getEventListeners(abort.signal, "abort").length, 1);
  abort.abort();
  for (const outcome of await Promise.allSettled(calls)) {
    assert.ok(outcome.status === "rejected" && isCode("cancelled")(outcome.reason));
  }
  assert.deepEqual(warnings, []);
  process.off("warning", note);
});

test("events are iterated, and stderr comes as log records", { timeout: TIMEOUT_MS }, async () => {
  const up = await startFake();
  const logs: LogRecord[] = [];
  up.on("log", (record) => logs.push(record));
  const seen: string[] = [];
  const iteration = (async () => {
    for await (const message of up.events()) seen.push(message.type);
  })();
  await up.upscale(fakeJob({ print_text: "a library's print" }));
  await up.close();
  await iteration;
  assert.equal(seen.filter((type) => type === "result").length, 1);
  assert.ok(seen.includes("accepted"));
  assert.ok(logs.some(({ text }) => text?.includes("a library's print")), JSON.stringify(logs));
});

test("events have every message since they were asked for, and end if the client has ended before the loop begins", { timeout: TIMEOUT_MS }, async () => {
  const up = await startFake();
  const events = up.events();
  await up.upscale(fakeJob());
  await up.close();
  const seen: string[] = [];
  for await (const { type } of events) seen.push(type);
  assert.equal(seen.filter((type) => type === "result").length, 1);
  for await (const message of up.events()) assert.fail(JSON.stringify(message));
});
