import assert from "node:assert/strict";
import { test } from "node:test";

import { TIMEOUT_MS, waitUntil } from "./processes.js";
import { startRedis } from "./redis.js";
import { startWorkerApp, TestQueue } from "./workers.js";

const MEMORY = ["--maxmemory", "10mb"];

async function withRedis(options: string[], use: (queue: TestQueue) => Promise<void>): Promise<void> {
  const redis = await startRedis(...options);
  try {
    await using queue = new TestQueue(redis.port);
    await use(queue);
  } finally {
    await redis.stop();
  }
}

test("a Redis that would lose jobs fails the application's start, with what to set", { timeout: TIMEOUT_MS }, async () => {
  for (const policy of ["allkeys-lru", "volatile-ttl"]) {
    await withRedis([...MEMORY, "--maxmemory-policy", policy], async (queue) => {
      const job = await queue.add({});
      const sentence = new RegExp(`maxmemory-policy is ${policy}.* 10485760 bytes; set maxmemory-policy to noeviction$`);
      await assert.rejects(startWorkerApp(queue), sentence);
      // It is there for an application that may start.
      assert.equal(await (await queue.reload(job)).getState(), "waiting");
    });
  }
});

test("a Redis that evicts nothing is used", { timeout: TIMEOUT_MS }, async () => {
  const kept = [MEMORY, ["--maxmemory-policy", "allkeys-lru"], [...MEMORY, "--maxmemory-policy", "noeviction"]];
  for (const options of kept) {
    await withRedis(options, async (queue) => {
      await using _ = await startWorkerApp(queue);
      assert.equal((await queue.result(await queue.add({}))).status, "completed");
    });
  }
});

test("a Redis that is away at the start holds it up for a moment, and is asked when it comes", { timeout: TIMEOUT_MS }, async () => {
  const redis = await startRedis(...MEMORY, "--maxmemory-policy", "allkeys-lru");
  try {
    await using queue = new TestQueue(redis.port);
    const job = await queue.add({});
    redis.freeze();
    await using worker = await startWorkerApp(queue);
    redis.thaw();
    await waitUntil(() => worker.processor.worker.isPaused(), "the pause of the worker");
    await waitUntil(async () => (await (await queue.reload(job)).getState()) === "waiting", "the job's way back");
    assert.equal((await queue.reload(job)).attemptsMade, 0);
  } finally {
    await redis.stop();
  }
});
