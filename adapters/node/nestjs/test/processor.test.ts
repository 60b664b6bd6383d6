import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";

import type { FakeConfig } from "upscaled";
import { failureOf } from "upscaled-nestjs/bullmq";
import type { JobProgress } from "upscaled-nestjs/bullmq";

import { familyOf, isAlive, TIMEOUT_MS, waitUntil } from "./processes.js";
import { startRedis } from "./redis.js";
import type { Redis } from "./redis.js";
import { HANGS, RETRIES, startWorkerApp, TestQueue } from "./workers.js";

let redis: Redis;

before(async () => {
  redis = await startRedis();
});

after(() => redis.stop());

test("a job ends with its result", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using _ = await startWorkerApp(queue);
  assert.equal((await queue.result(await queue.add({}))).status, "completed");
});

test("a job that cannot be sent fails at once, is not tried again, and holds up no other", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using _ = await startWorkerApp(queue);
  const half = "😀".slice(0, 1);
  const data: unknown[] = [
    "fake", null, 7, [],
    { config: {} },
    { method: 7, config: {} },
    { method: "esrgan" },
    { method: "esrgan", config: "a.png" },
    { method: "esrgan", config: { image_path: `${half}.png` } },
    { method: "fake", config: { output_text: half } },
    { method: "fake", config: {}, type: "shutdown" },
    { method: "fake", config: {}, timeout_s: "5" },
  ];
  for (const one of data) {
    const job = await queue.queue.add("fake", one, RETRIES);
    await assert.rejects(queue.result(job), /^Error: invalid_job: /, JSON.stringify(one));
    const ended = await queue.reload(job);
    assert.equal(await ended.getState(), "failed");
    assert.equal(ended.attemptsMade, 1);
    assert.equal(failureOf(ended)?.retryable, false);
  }
  assert.equal((await queue.result(await queue.add({}))).status, "completed");
});

test("a request of the application's own that cannot be sent fails at once too", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  const deep: unknown[] = [];
  for (let list = deep, level = 0; level < 2000; level++) list.push((list = []));
  const requests: Record<string, [() => unknown, string]> = {
    bigint: [() => ({ method: "fake", config: { steps: 9n } }), "invalid_job"],
    cycle: [() => { const config: object = {}; return { method: "fake", config: Object.assign(config, { config }) }; }, "invalid_job"],
    getter: [() => ({ get method() { throw new Error("no"); } }), "invalid_job"],
    deep: [() => ({ method: "fake", config: {}, deep }), "invalid_json"],
    long: [() => ({ method: "fake", config: { model: "x".repeat(20_000) } }), "line_too_long"],
  };
  await using _ = await startWorkerApp(queue, {}, { lineLimitBytes: 10_000 }, false, ({ name }) => requests[name]?.[0]());
  for (const [name, [, code]] of Object.entries(requests)) {
    const job = await queue.queue.add(name, {}, RETRIES);
    await assert.rejects(queue.result(job), new RegExp(`: ${code}: `), name);
    assert.equal((await queue.reload(job)).attemptsMade, 1);
  }
});

test("jobs with ids that are too long for the daemon, or cut within a character, run side by side", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using _ = await startWorkerApp(queue, { concurrency: 4 });
  const long = "😀".repeat(200);
  const ids = [`a${long}`, `b${long}`, `${long.slice(1)}`, "x".repeat(500)];
  const config: FakeConfig = { steps: 2, step_s: 0.05 };
  const jobs = await Promise.all(ids.map((jobId) => queue.queue.add("fake", { method: "fake", config }, { jobId })));
  // BullMQ's events name an id as Redis keeps it, so they are not waited for here.
  await waitUntil(async () => (await queue.queue.getCompletedCount()) === jobs.length, "the jobs' results");
  assert.equal(await queue.queue.getFailedCount(), 0);
});

test("progress is reported while the job runs, and never falls", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using worker = await startWorkerApp(queue);
  const seen: JobProgress[] = [];
  queue.events.on("progress", ({ data }) => seen.push(data as JobProgress));
  const job = await queue.add({ steps: 100_000, step_s: 0.01 });
  await waitUntil(() => seen.length > 2, "the job's progress");
  const percents = seen.map(({ progress }) => progress);
  assert.deepEqual(percents, percents.toSorted((a, b) => a - b));
  assert.equal(typeof seen[0]?.stage, "string");
  assert.ok(worker.processor.worker.cancelJob(job.id ?? ""));
  await assert.rejects(queue.result(job), /cancelled/);
});

test("an error that no retry mends ends the job at its first attempt", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using _ = await startWorkerApp(queue);
  const job = await queue.add({ error_code: "input_unreadable" }, RETRIES);
  await assert.rejects(queue.result(job), /^Error: input_unreadable: /);
  const failed = await queue.reload(job);
  assert.equal(failed.attemptsMade, 1);
  assert.equal(failureOf(failed)?.code, "input_unreadable");
  assert.equal(failureOf(failed)?.retryable, false);
});

test("a retryable error is retried as often as the job says, and each failure is logged", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  const log: string[] = [];
  const note = (sentence: unknown): void => void log.push(String(sentence));
  await using _ = await startWorkerApp(queue, {}, {}, { log: () => {}, warn: note, error: note });
  const job = await queue.add({ error_code: "upstream_quota" }, RETRIES);
  await assert.rejects(queue.result(job), /upstream_quota/);
  const failed = await queue.reload(job);
  assert.equal(failed.attemptsMade, 3);
  await waitUntil(() => log.length >= 3, "the failures' sentences");
  assert.match(log[0] ?? "", /^job 1 failed at attempt 1 of 3: upstream_quota: .*; it is tried again$/);
  assert.match(log[2] ?? "", /^job 1 failed at attempt 3 of 3: upstream_quota: .*[^n]$/);
  assert.equal(failureOf(failed)?.retryable, true);
});

test("a killed worker costs the job no attempt of BullMQ's", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using _ = await startWorkerApp(queue);
  const job = await queue.add({ signal: 9, only_on_attempt: 1 });
  const result = await queue.result(job);
  assert.equal(result.attempt, 2);
  assert.equal((await queue.reload(job)).attemptsMade, 1);
});

test("a job whose daemon is killed is retried on the next daemon", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using worker = await startWorkerApp(queue);
  const job = await queue.addRunning(HANGS, RETRIES);
  await queue.change(job, {});
  process.kill(worker.upscaled.client.pid ?? 0, "SIGKILL");
  assert.equal((await queue.result(job)).status, "completed");
  assert.equal((await queue.reload(job)).attemptsMade, 2);
});

test("a cancelled job is cancelled in the daemon, and not retried", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using worker = await startWorkerApp(queue);
  const job = await queue.addRunning(HANGS, RETRIES);
  assert.ok(worker.processor.worker.cancelJob(job.id ?? "", "the user left"));
  await assert.rejects(queue.result(job), /cancelled/);
  assert.equal((await queue.reload(job)).attemptsMade, 1);
});

test("a shutdown gives back what it cannot finish, uncharged", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using worker = await startWorkerApp(queue, {}, { closeTimeoutMs: 50 });
  const job = await queue.addRunning(HANGS);
  const family = familyOf(worker.upscaled.client.pid ?? 0);
  await worker.app.close();
  await waitUntil(() => !family.some(isAlive), "the end of the daemon's processes");
  const left = await queue.reload(job);
  assert.equal(await left.getState(), "waiting");
  assert.equal(left.attemptsMade, 0);
});

test("a process whose daemon cannot be started leaves the jobs to others", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  const broken = { command: ["sh", "-c", "exit 3"], args: [], restart: false } as const;
  await using first = await startWorkerApp(queue, {}, broken);
  const job = await queue.add({});
  await waitUntil(() => first.processor.worker.isPaused(), "the pause of the broken process's worker");
  await using _ = await startWorkerApp(queue);
  assert.equal((await queue.result(job)).status, "completed");
  assert.equal((await queue.reload(job)).attemptsMade, 1);
});

test("a process whose workers' options are wrong leaves the jobs to others", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using first = await startWorkerApp(queue, {}, { args: ["--methods", "fake", "--no-such-option"] });
  const job = await queue.add({});
  await waitUntil(() => first.processor.worker.isPaused(), "the pause of the wrong process's worker");
  await using _ = await startWorkerApp(queue);
  assert.equal((await queue.result(job)).status, "completed");
  assert.equal((await queue.reload(job)).attemptsMade, 1);
});

test("a failure is as retryable as its error says, whatever its code", { timeout: TIMEOUT_MS }, async () => {
  const ends = [
    { code: "worker_crashed", error: "there is no option --foo", retryable: false },
    { code: "out_of_memory", error: "it is full", retryable: true },
    { code: "too_sleepy", error: "it is late", retryable: true },
  ];
  const answers = ends.map((end, at) => ({ job_id: `J${at}`, method: "fake", status: "failed", ...end }));
  const server = createServer((request, response) => {
    request.resume().on("end", () => response.end(JSON.stringify(answers.shift())));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  await using queue = new TestQueue(redis.port);
  await using _ = await startWorkerApp(queue, {}, { url });
  for (const end of ends) {
    const job = await queue.add({});
    await assert.rejects(queue.result(job));
    assert.deepEqual(failureOf(await queue.reload(job)), end);
  }
  server.close();
});
