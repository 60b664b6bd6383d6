import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { isDeepStrictEqual } from "node:util";

import type { NestExpressApplication } from "@nestjs/platform-express";

import { UpscaledService } from "upscaled-nestjs";
import type { JobProgress } from "upscaled-nestjs/bullmq";

import type { AcceptedDto, StatusDto } from "../example/answers.dto.js";
import { createApp } from "../example/app.js";
import { settingsFrom } from "../example/settings.js";
import type { Settings } from "../example/settings.js";
import { listen, photograph, post } from "./api.js";
import { TIMEOUT_MS, waitUntil } from "./processes.js";
import { startRedis } from "./redis.js";
import type { Redis } from "./redis.js";
import { TestQueue } from "./workers.js";

let redis: Redis;
let folder: string;
let settings: Settings;
let app: NestExpressApplication;
let url: string;

before(async () => {
  redis = await startRedis();
  folder = await mkdtemp(join(tmpdir(), "upscaled-nestjs-"));
  const env = {
    UPLOAD_DIR: join(folder, "uploads"),
    OUTPUT_DIR: join(folder, "outputs"),
    REDIS_PORT: String(redis.port),
    MAX_CONCURRENT_JOBS: "2",
  };
  settings = { ...settingsFrom(env), daemonArgs: ["--methods", "esrgan"] };
  app = await createApp(settings, { logger: false });
  url = await listen(app);
});

after(async () => {
  await app.close();
  await redis.stop();
  await rm(folder, { recursive: true });
});

/** The status that the job ends with. */
async function finish(response: Response): Promise<StatusDto> {
  assert.equal(response.status, 202, await response.clone().text());
  const { status_url } = (await response.json()) as AcceptedDto;
  let status: StatusDto | undefined;
  await waitUntil(async () => {
    status = (await (await fetch(url + status_url)).json()) as StatusDto;
    return ["completed", "failed"].includes(status.state);
  }, "the end of the job");
  return status ?? assert.fail();
}

interface Health {
  readonly info: Record<string, Record<string, unknown>>;
  readonly error: Record<string, unknown>;
}

/** The health page, once it has that status and these faults: on a busy machine an answer may come too late for it. */
async function health(base: string, status: number, faults: string[]): Promise<Health> {
  let page: Health | undefined;
  await waitUntil(async () => {
    const response = await fetch(`${base}/api/health`);
    page = (await response.json()) as Health;
    return response.status === status && isDeepStrictEqual(Object.keys(page.error), faults);
  }, `a health page with status ${status} and the faults [${faults}]`);
  return page ?? assert.fail();
}

async function assertRefused(response: Response, status: number, message: RegExp): Promise<void> {
  const text = await response.text();
  assert.equal(response.status, status, text);
  assert.match(text, message);
  await waitUntil(async () => (await readdir(settings.uploadDir)).length === 0, "the upload's removal");
}

test("an uploaded picture is upscaled, and can be fetched", { timeout: TIMEOUT_MS }, async () => {
  const status = await finish(await post(url, "esrgan", { model: "compact-x2", upscale_factor: "2" }));
  assert.equal(status.state, "completed", JSON.stringify(status));
  assert.equal(status.progress, 100);
  assert.deepEqual(status.result?.output_size, { width: 512, height: 512 });
  const response = await fetch(url + status.result?.url);
  assert.equal(response.headers.get("content-type"), "image/png");
  const picture = Buffer.from(await response.arrayBuffer());
  assert.deepEqual([picture.readUInt32BE(16), picture.readUInt32BE(20)], [512, 512]);
  await waitUntil(async () => (await readdir(settings.uploadDir)).length === 0, "the upload's removal");
});

test("a print size and a format are kept, and progress is reported", { timeout: TIMEOUT_MS }, async () => {
  await using queue = new TestQueue(redis.port, "upscale-esrgan");
  const seen = new Map<string, JobProgress>();
  queue.events.on("progress", ({ jobId, data }) => seen.set(jobId, data as JobProgress));
  const fields = { target_width_inches: "3", target_height_inches: "2", target_dpi: "200", output_format: "webp" };
  const status = await finish(await post(url, "esrgan", { ...fields, crop: "center", tile_size: "32" }));
  assert.deepEqual(status.result?.output_size, { width: 600, height: 400 }, JSON.stringify(status));
  await waitUntil(() => seen.has(status.job_id), "the job's progress");
  assert.equal(typeof seen.get(status.job_id)?.stage, "string");
  const response = await fetch(url + status.result?.url);
  assert.equal(response.headers.get("content-type"), "image/webp");
});

test("fields that are unknown or out of range are refused by name", { timeout: TIMEOUT_MS }, async () => {
  await assertRefused(await post(url, "esrgan", { upscale_faktor: "2" }), 400, /upscale_faktor should not exist/);
  await assertRefused(await post(url, "esrgan", { output_path: "/etc/passwd" }), 400, /output_path should not exist/);
  await assertRefused(await post(url, "esrgan", { upscale_factor: "17" }), 400, /upscale_factor must not be greater/);
  await assertRefused(await post(url, "esrgan", { model: "../../weights.pth" }), 400, /model must match/);
  await assertRefused(await post(url, "flux", { denoise: "much" }), 400, /denoise must be a number/);
  await assertRefused(await post(url, "imagen", { upscale_factor: "4" }), 400, /upscale_factor must be one of/);
  await assertRefused(await post(url, "imagen", { gcp_region: "example.com/" }), 400, /gcp_region must match/);
});

test("empty fields are absent", { timeout: TIMEOUT_MS }, async () => {
  const fields = { model: "compact-x2", upscale_factor: "2", quality: "", crop: "", use_fp16: "", target_dpi: "", upscale_model: "" };
  const { result } = await finish(await post(url, "esrgan", fields));
  assert.deepEqual(result?.output_size, { width: 512, height: 512 });
  await assertRefused(await post(url, "esrgan", { output_path: "" , upscale_faktor: "2" }), 400, /upscale_faktor/);
});

test("what is no picture is refused, by its name and by its content", { timeout: TIMEOUT_MS }, async () => {
  const text = new Blob(["no picture"]);
  await assertRefused(await post(url, "esrgan", {}, { name: "a.svg" }), 415, /no PNG, JPEG, WebP/);
  await assertRefused(await post(url, "esrgan", {}, { image: text, name: "a.png" }), 415, /no PNG, JPEG, WebP/);
  await assertRefused(await fetch(`${url}/api/upscale/esrgan`, { method: "POST", body: new FormData() }), 400, /image/);
});

test("an upload of more than 50 MB is refused", { timeout: TIMEOUT_MS }, async () => {
  const large = new Blob([await photograph(), new Uint8Array(50 * 1024 * 1024)]);
  await assertRefused(await post(url, "esrgan", {}, { image: large }), 413, /too large/i);
});

test("a failed job has its code, and no path of the machine", { timeout: TIMEOUT_MS }, async () => {
  const half = new Blob([(await photograph()).slice(0, 4000)]);
  const truncated = await finish(await post(url, "esrgan", {}, { image: half }));
  assert.deepEqual(truncated.error, { code: "input_unreadable", retryable: false });
  const unserved = await finish(await post(url, "flux"));
  assert.deepEqual(unserved.error, { code: "unknown_method", retryable: false });
  const contrary = await finish(await post(url, "esrgan", { target_width: "9", target_width_inches: "9" }));
  assert.equal(contrary.error?.code, "invalid_job");
  assert.match(contrary.error?.error ?? "", /inches/);
  await waitUntil(async () => (await readdir(settings.uploadDir)).length === 0, "the uploads' removal");
});

test("an upload that outlived its job is removed at the next start", { timeout: TIMEOUT_MS }, async () => {
  const { job_id } = await finish(await post(url, "esrgan", { model: "compact-x2", upscale_factor: "2" }));
  await waitUntil(async () => (await readdir(settings.uploadDir)).length === 0, "the upload's removal");
  await writeFile(join(settings.uploadDir, job_id), "");
  const next = await createApp({ ...settings, daemonArgs: ["--methods", "fake"] }, { logger: false });
  await next.init();
  await waitUntil(async () => (await readdir(settings.uploadDir)).length === 0, "the late removal");
  await next.close();
});

test("results are the pictures of jobs, and nothing else", { timeout: TIMEOUT_MS }, async () => {
  await writeFile(join(settings.outputDir, "secret.png"), "");
  await mkdir(join(settings.outputDir, "00000000-0000-0000-0000-000000000000.png"));
  const paths = ["secret.png", "..%2Fuploads", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "00000000-0000-0000-0000-000000000000.png"];
  for (const path of [...paths, "00000000-0000-0000-0000-000000000001.png"]) {
    assert.equal((await fetch(`${url}/api/results/${path}`)).status, 404, path);
  }
});

test("an unknown job is not found", { timeout: TIMEOUT_MS }, async () => {
  assert.equal((await fetch(`${url}/api/status/00000000-0000-4000-8000-000000000000`)).status, 404);
  assert.equal((await fetch(`${url}/api/status/1`)).status, 404);
});

test("health reports the daemon and Redis, and is 503 without either", { timeout: TIMEOUT_MS }, async () => {
  const { info } = await health(url, 200, []);
  assert.equal(info["redis"]?.["status"], "up");
  assert.equal(info["upscaled"]?.["queue_size"], 0);
  assert.ok(Array.isArray(info["upscaled"]?.["models_loaded"]));
  assert.equal(typeof info["upscaled"]?.["gpu_available"], "boolean");

  redis.freeze();
  await health(url, 503, ["redis"]);
  redis.thaw();
});

test("health is 503 once no daemon can be had", { timeout: TIMEOUT_MS }, async () => {
  const other = await createApp({ ...settings, daemonArgs: ["--methods", "fake"] }, { logger: false });
  const base = await listen(other);
  await other.get(UpscaledService).client.kill();
  await health(base, 503, ["upscaled"]);
  await other.close();
});

test("Swagger has every route, with a summary, and the fields of each upload", { timeout: TIMEOUT_MS }, async () => {
  assert.equal((await fetch(`${url}/api/docs`)).status, 200);
  const { paths, components } = (await (await fetch(`${url}/api/docs-json`)).json()) as {
    paths: Record<string, Record<string, { summary?: string }>>;
    components: { schemas: Record<string, { properties: object }> };
  };
  assert.deepEqual(Object.keys(paths).toSorted(), [
    "/api/health",
    "/api/jobs",
    "/api/jobs/{id}",
    "/api/results/{file}",
    "/api/status/{id}",
    "/api/upscale/esrgan",
    "/api/upscale/flux",
    "/api/upscale/imagen",
  ]);
  const operations = Object.values(paths).flatMap((path) => Object.values(path));
  assert.deepEqual(operations.filter(({ summary }) => !summary), []);
  assert.ok("denoise" in (components.schemas["FluxDto"]?.properties ?? {}));
  assert.ok("image" in (components.schemas["EsrganDto"]?.properties ?? {}));
});
