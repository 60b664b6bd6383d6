import "reflect-metadata";

import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import { Injectable, Module } from "@nestjs/common";
import type { DynamicModule, INestApplicationContext } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { TerminusModule } from "@nestjs/terminus";
import { DaemonGoneError } from "upscaled";
import { UpscaledModule, UpscaledService } from "upscaled-nestjs";
import type { UpscaledModuleOptions } from "upscaled-nestjs";
import { UpscaledHealthIndicator } from "upscaled-nestjs/terminus";

import { familyOf, isAlive, TIMEOUT_MS, waitUntil } from "./processes.js";

const FAKE: UpscaledModuleOptions = { args: ["--methods", "fake"] };
const BROKEN: UpscaledModuleOptions = { command: ["sh", "-c", "exit 3"], restart: false };

@Injectable()
class Options {
  readonly args = ["--methods", "fake"];
}

@Module({ providers: [Options], exports: [Options] })
class OptionsModule {}

async function startApp(upscaled: DynamicModule): Promise<INestApplicationContext> {
  @Module({ imports: [upscaled, TerminusModule], providers: [UpscaledHealthIndicator] })
  class AppModule {}
  return NestFactory.createApplicationContext(AppModule, { logger: false, abortOnError: false });
}

test("a service of forRoot upscales, and its daemon ends with the application", { timeout: TIMEOUT_MS }, async () => {
  const app = await startApp(UpscaledModule.forRoot(FAKE));
  const upscaled = app.get(UpscaledService);
  const result = await upscaled.upscale({ method: "fake", config: {} });
  assert.equal(result.status, "completed");
  const family = familyOf(upscaled.client.pid ?? 0);
  assert.ok(family.length > 1);
  await app.close();
  await waitUntil(() => !family.some(isAlive), "the end of the daemon's processes");
  await assert.rejects(upscaled.upscale({ method: "fake", config: {} }), { code: "shutting_down" });
});

test("forRootAsync takes its options from other providers", { timeout: TIMEOUT_MS }, async () => {
  const app = await startApp(
    UpscaledModule.forRootAsync({
      imports: [OptionsModule],
      inject: [Options],
      useFactory: ({ args }: Options) => ({ args, eager: true }),
    }),
  );
  const upscaled = app.get(UpscaledService);
  assert.deepEqual((await upscaled.client.ready()).methods, ["fake"]);
  await app.close();
});

test("a daemon that is not used is never started", { timeout: TIMEOUT_MS }, async () => {
  const app = await startApp(UpscaledModule.forRoot(FAKE));
  const upscaled = app.get(UpscaledService);
  await app.close();
  await assert.rejects(upscaled.upscale({ method: "fake", config: {} }), DaemonGoneError);
});

test("an eager daemon that does not get ready fails the application's start", { timeout: TIMEOUT_MS }, async () => {
  await assert.rejects(startApp(UpscaledModule.forRoot({ ...BROKEN, eager: true })), /status 3/);
});

test("health is up with the daemon's report, and down when it is gone", { timeout: TIMEOUT_MS }, async () => {
  const app = await startApp(UpscaledModule.forRoot({ ...FAKE, eager: true }));
  const health = app.get(UpscaledHealthIndicator);
  const { upscaled: up } = await health.isHealthy("upscaled", { timeoutMs: TIMEOUT_MS });
  assert.equal(up["status"], "up");
  assert.equal(up["queue_size"], 0);
  assert.ok(!("workers" in up));
  await app.close();
  const { upscaled: down } = await health.isHealthy("upscaled");
  assert.equal(down["status"], "down");
});

test("a daemon that does not answer is down in time", { timeout: TIMEOUT_MS }, async () => {
  const app = await startApp(UpscaledModule.forRoot({ ...FAKE, eager: true, closeTimeoutMs: 50 }));
  const pid = app.get(UpscaledService).client.pid ?? 0;
  process.kill(pid, "SIGSTOP");
  const { upscaled } = await app.get(UpscaledHealthIndicator).isHealthy("upscaled", { timeoutMs: 50 });
  assert.equal(upscaled["status"], "down");
  process.kill(pid, "SIGCONT");
  await app.close();
});

test("with a url a server does the jobs, and no daemon is started", { timeout: TIMEOUT_MS }, async () => {
  const ended = { job_id: "J1", method: "fake", status: "completed", model: "theirs" };
  const health = { status: "ok", queue_size: 2, uptime_s: 1 };
  const server = createServer((request, response) => {
    assert.equal(request.headers.authorization, "Bearer a key");
    request.resume().on("end", () => response.end(JSON.stringify(request.method === "POST" ? ended : health)));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const app = await startApp(UpscaledModule.forRoot({ ...BROKEN, url, key: "a key", eager: true }));
  const upscaled = app.get(UpscaledService);
  assert.equal((await upscaled.upscale({ method: "fake", config: {} })).model, "theirs");
  assert.equal((await app.get(UpscaledHealthIndicator).isHealthy("upscaled"))["upscaled"].status, "up");
  assert.throws(() => upscaled.client, TypeError);
  await app.close();
  await assert.rejects(upscaled.upscale({ method: "fake", config: {} }), { code: "shutting_down" });
  server.close();
});
