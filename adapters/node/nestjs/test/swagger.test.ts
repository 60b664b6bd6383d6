/** Swagger's page in a real browser. */

import assert from "node:assert/strict";
import { accessSync, constants } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { after, before, test } from "node:test";

import type { NestExpressApplication } from "@nestjs/platform-express";
import type { JobRequest } from "upscaled";
import { chromium } from "playwright-core";
import type { Browser } from "playwright-core";

import type { AcceptedDto } from "../example/answers.dto.js";
import { createApp } from "../example/app.js";
import { settingsFrom } from "../example/settings.js";
import { listen, PHOTOGRAPH } from "./api.js";
import { TIMEOUT_MS } from "./processes.js";
import { startRedis } from "./redis.js";
import type { Redis } from "./redis.js";
import { HOLDING_DAEMON } from "./scripted.js";
import { TestQueue } from "./workers.js";

// Nothing that a page of this machine does not need.
const QUIET = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const CHROMIUM = inPath("chromium");
const skip = CHROMIUM === undefined && "chromium is not in PATH";

let redis: Redis;
let folder: string;
let app: NestExpressApplication;
let url: string;
let browser: Browser;

function inPath(program: string): string | undefined {
  const paths = (process.env["PATH"] ?? "").split(delimiter).map((one) => join(one, program));
  return paths.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

before(async () => {
  if (CHROMIUM === undefined) return;
  redis = await startRedis();
  folder = await mkdtemp(join(tmpdir(), "upscaled-nestjs-"));
  const env = { UPLOAD_DIR: join(folder, "uploads"), OUTPUT_DIR: join(folder, "outputs"), REDIS_PORT: String(redis.port) };
  app = await createApp({ ...settingsFrom(env), command: HOLDING_DAEMON, closeTimeoutMs: 50 }, { logger: false });
  url = await listen(app);
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu", ...QUIET] });
});

after(async () => {
  if (CHROMIUM === undefined) return;
  await browser.close();
  await app.close();
  await redis.stop();
  await rm(folder, { recursive: true });
});

test("Try it out works with each form as it opens", { timeout: TIMEOUT_MS, skip }, async () => {
  const page = await browser.newPage();
  await page.goto(`${url}/api/docs`);

  /** Sends a route's form; its answer. */
  const tryOut = async (operation: string, status: number): Promise<unknown> => {
    const block = page.locator(`#operations-${operation}`);
    await block.locator(".opblock-summary").click();
    await block.getByRole("button", { name: "Try it out" }).click();
    const file = block.locator("input[type=file]");
    if ((await file.count()) > 0) await file.setInputFiles(PHOTOGRAPH);
    const [response] = await Promise.all([
      page.waitForResponse((one) => !one.url().includes("/docs")),
      block.getByRole("button", { name: "Execute" }).click(),
    ]);
    assert.equal(response.status(), status, await response.text());
    return response.json();
  };

  for (const method of ["esrgan", "flux", "imagen"]) {
    const { job_id } = (await tryOut(`upscale-UpscaleController_${method}`, 202)) as AcceptedDto;
    await using queue = new TestQueue(redis.port, `upscale-${method}`);
    const job = (await queue.queue.getJob(job_id)) as { data: JobRequest } | undefined;
    // What the form shows empty is absent.
    assert.deepEqual(Object.keys(job?.data.config ?? {}).toSorted(), ["image_path", "output_format", "output_path"]);
  }
  assert.equal(((await tryOut("jobs-JobsController_list", 200)) as unknown[]).length, 3);
});
