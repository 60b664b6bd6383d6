/** Jobs of the example's API: listed, cancelled, and logged. */

import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import type { NestExpressApplication } from "@nestjs/platform-express";

import type { AcceptedDto, CancelledDto, StatusDto } from "../example/answers.dto.js";
import { createApp } from "../example/app.js";
import { settingsFrom } from "../example/settings.js";
import { listen, post } from "./api.js";
import { TIMEOUT_MS, waitUntil } from "./processes.js";
import { startRedis } from "./redis.js";
import type { Redis } from "./redis.js";
import { HOLDING_DAEMON } from "./scripted.js";

let redis: Redis;
let folder: string;
let app: NestExpressApplication;
let url: string;
const log: string[] = [];

before(async () => {
  redis = await startRedis();
  folder = await mkdtemp(join(tmpdir(), "upscaled-nestjs-"));
  const env = {
    UPLOAD_DIR: join(folder, "uploads"),
    OUTPUT_DIR: join(folder, "outputs"),
    REDIS_PORT: String(redis.port),
    MAX_CONCURRENT_JOBS: "1",
  };
  const note = (sentence: unknown): void => void log.push(String(sentence));
  const logger = { log: () => {}, warn: note, error: note };
  app = await createApp({ ...settingsFrom(env), command: HOLDING_DAEMON }, { logger });
  url = await listen(app);
});

after(async () => {
  await app.close();
  await redis.stop();
  await rm(folder, { recursive: true });
});

async function submit(method: string): Promise<string> {
  return ((await (await post(url, method)).json()) as AcceptedDto).job_id;
}

async function get<T>(path: string): Promise<T> {
  return (await (await fetch(url + path)).json()) as T;
}

/** Waits until the job has that state. */
async function reach(jobId: string, state: string): Promise<StatusDto> {
  let status: StatusDto | undefined;
  await waitUntil(async () => {
    status = await get<StatusDto>(`/api/status/${jobId}`);
    return status.state === state;
  }, `job ${jobId} as ${state}`);
  return status ?? assert.fail();
}

async function cancel(jobId: string): Promise<{ status: number; answer: CancelledDto }> {
  const response = await fetch(`${url}/api/jobs/${jobId}`, { method: "DELETE" });
  return { status: response.status, answer: (await response.json()) as CancelledDto };
}

test("jobs are listed; waiting, running and ended jobs are cancelled", { timeout: TIMEOUT_MS }, async () => {
  const running = await submit("esrgan");
  await reach(running, "active");
  const waiting = await submit("esrgan");
  const other = await submit("flux");
  await reach(other, "active");
  const ids = async (query: string): Promise<string[]> => (await get<StatusDto[]>(`/api/jobs${query}`)).map((job) => job.job_id);
  assert.deepEqual(await ids(""), [other, waiting, running]);
  assert.deepEqual(await ids("?state=waiting&limit="), [waiting]);
  assert.deepEqual(await ids("?limit=1"), [other]);
  assert.equal((await fetch(`${url}/api/jobs?state=lost`)).status, 400);

  assert.deepEqual(await cancel(waiting), { status: 202, answer: { job_id: waiting, method: "esrgan", state: "cancelled" } });
  assert.equal((await fetch(`${url}/api/status/${waiting}`)).status, 404);
  assert.deepEqual(await cancel(running), { status: 202, answer: { job_id: running, method: "esrgan", state: "cancelling" } });
  const { error } = await reach(running, "failed");
  assert.deepEqual(error, { code: "cancelled", retryable: false });
  assert.equal((await cancel(running)).status, 409);
  assert.equal((await cancel(waiting)).status, 404);

  await cancel(other);
  await reach(other, "failed");
  await waitUntil(async () => (await readdir(join(folder, "uploads"))).length === 0, "the uploads' removal");
  await waitUntil(() => log.includes(`job ${running} failed at attempt 1 of 3: cancelled: as told`), "the sentence in the log");
});
