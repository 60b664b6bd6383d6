/** Jobs that lose their process or their lock. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";

import type { FakeConfig } from "upscaled";
import { failureOf } from "upscaled-nestjs/bullmq";

import { familyOf, isAlive, TIMEOUT_MS, waitUntil } from "./processes.js";
import { startRedis } from "./redis.js";
import type { Redis } from "./redis.js";
import { FINDER, HANGS, RETRIES, startWorkerApp, TestQueue } from "./workers.js";
import type { WorkerApp } from "./workers.js";

// Until its daemon's worker is killed: its second attempt there ends well.
const HELD: FakeConfig = { ...HANGS, only_on_attempt: 1 };

let redis: Redis;
let folder: string;

before(async () => {
  redis = await startRedis();
  folder = await mkdtemp(join(tmpdir(), "upscaled-nestjs-"));
});

after(async () => {
  await redis.stop();
  await rm(folder, { recursive: true });
});

interface Host extends AsyncDisposable {
  readonly process: ChildProcess;
  /** Its daemon's processes. */
  readonly family: number[];
  readonly log: string[];
}

/** Starts host.js, which works on the queue. */
async function startHost({ port, name }: TestQueue): Promise<Host> {
  const path = new URL("host.js", import.meta.url).pathname;
  const host = spawn(process.execPath, [path, String(port), name], { stdio: ["ignore", "pipe", "inherit"] });
  const log: string[] = [];
  const daemon = await new Promise<number>((resolve) => {
    createInterface({ input: host.stdout }).on("line", (line) => {
      log.push(line);
      if (line.startsWith("daemon ")) resolve(Number(line.slice(7)));
    });
  });
  const family = familyOf(daemon);
  const end = async (): Promise<void> => {
    host.kill("SIGKILL");
    await waitUntil(() => !family.some(isAlive), "the end of the killed process's daemon");
  };
  return { process: host, family, log, [Symbol.asyncDispose]: end };
}

/** Resolves with the daemon's id of the first job that it ends with `cancelled`. */
function cancelledJob({ upscaled }: WorkerApp): Promise<string | null> {
  return new Promise((resolve) => {
    upscaled.client.on("message", (message) => {
      if (message.type === "error" && message.code === "cancelled") resolve(message.job_id);
    });
  });
}

/** Resolves when the job of that id of the daemon's has made progress. */
function running({ upscaled }: WorkerApp, id: string): Promise<void> {
  return new Promise((resolve) => {
    upscaled.client.on("message", (message) => {
      if (message.type === "progress" && message.job_id === id) resolve();
    });
  });
}

/** Ends what is held. */
async function killDaemonsWorker({ upscaled }: WorkerApp): Promise<void> {
  const { workers } = await upscaled.health();
  process.kill(workers?.[0]?.pid ?? assert.fail("no worker"), "SIGKILL");
}

test("a process killed in mid-job: another finishes the job, once", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  const output = await mkdtemp(join(folder, "killed-"));
  await using host = await startHost(queue);
  assert.ok(host.family.length > 1);
  const config: FakeConfig = { output_path: join(output, "picture"), output_text: "whole" };
  const job = await queue.addRunning({ ...HANGS, ...config });
  host.process.kill("SIGKILL");
  await waitUntil(() => !host.family.some(isAlive), "the end of the killed process's daemon");
  assert.deepEqual(await readdir(output), []);

  await queue.change(job, config);
  await queue.breakLock(job);
  await using _ = await startWorkerApp(queue, FINDER);
  assert.equal((await queue.result(job)).status, "completed");
  assert.equal(await queue.count("stalled", job), 1);
  assert.equal(await queue.count("completed", job), 1);
  assert.deepEqual(await readdir(output), ["picture"]);
  assert.equal(await readFile(join(output, "picture"), "utf8"), "whole");
});

test("a process frozen past its lock cannot end the job a second time", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using host = await startHost(queue);
  const job = await queue.addRunning(HELD);
  host.process.kill("SIGSTOP");
  await queue.change(job, {});
  await queue.breakLock(job);
  await using _ = await startWorkerApp(queue, FINDER);
  assert.equal((await queue.result(job)).status, "completed");
  // The frozen process's daemon makes a result too.
  process.kill(host.family.at(-1) ?? assert.fail("no worker"), "SIGKILL");
  host.process.kill("SIGCONT");
  await waitUntil(() => host.log.some((line) => line.includes("lock for job")), "the frozen process's finding out");
  assert.equal(await queue.count("completed", job), 1);
  assert.equal(await queue.count("failed", job), 0);
  assert.equal(await (await queue.reload(job)).getState(), "completed");
});

test("a job that comes back to the process that has it runs on once", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  // It comes back before its lock would have been renewed.
  await using worker = await startWorkerApp(queue, { ...FINDER, lockRenewTime: 2000 });
  const cancelled = cancelledJob(worker);
  const job = await queue.addRunning(HELD);
  const id = `${queue.name}/${job.id}`;
  const again = running(worker, `${id}/2`);
  await queue.breakLock(job);
  assert.equal(await cancelled, `${id}/1`);
  await again;
  // The lock of the second delivery is renewed although the first one has ended.
  await new Promise<void>((resolve) => {
    worker.processor.worker.on("locksRenewed", ({ jobIds }) => jobIds.includes(job.id ?? "") && resolve());
  });
  await killDaemonsWorker(worker);
  assert.equal((await queue.result(job)).status, "completed");
  assert.equal(await queue.count("completed", job), 1);
  assert.equal((await queue.reload(job)).attemptsStarted, 2);
});

test("a job that loses its process again and again is run again each time", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  // An attempt that lost its job holds its place until the next renewal of the locks: a place per delivery.
  await using worker = await startWorkerApp(queue, { ...FINDER, concurrency: 5 });
  const job = await queue.addRunning(HELD);
  for (let delivery = 2; delivery <= 5; delivery++) {
    const again = running(worker, `${queue.name}/${job.id}/${delivery}`);
    await queue.breakLock(job);
    await again;
  }
  await killDaemonsWorker(worker);
  assert.equal((await queue.result(job)).status, "completed");
  assert.equal(await queue.count("stalled", job), 4);
});

test("a job that stalls more often than it may ends as a crash", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using _ = await startWorkerApp(queue, { ...FINDER, maxStalledCount: 0 }, { closeTimeoutMs: 50 });
  const job = await queue.addRunning(HANGS, RETRIES);
  await queue.breakLock(job);
  await assert.rejects(queue.result(job), /stalled/);
  const failure = failureOf(await queue.reload(job));
  assert.equal(failure?.code, "worker_crashed");
  assert.equal(failure?.retryable, true);
});

test("a job whose lock ran out is computed no further", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port);
  await using worker = await startWorkerApp(queue, { lockRenewTime: 500 });
  const cancelled = cancelledJob(worker);
  const job = await queue.addRunning(HANGS);
  const refusal = new Promise<void>((resolve) => {
    worker.processor.worker.on("error", ({ message }) => message.startsWith("Missing lock") && resolve());
  });
  await queue.breakLock(job);
  assert.equal(await cancelled, `${queue.name}/${job.id}/1`);
  await refusal;
  assert.equal(await queue.count("failed", job), 0);
});
