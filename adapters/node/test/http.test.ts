import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { createServer as createSecureServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { after, before, beforeEach, test } from "node:test";

import { connect, HttpUpscaler } from "../src/http/index.js";
import { DaemonGoneError, JobError, NoAnswerError } from "../src/index.js";
import type { Upscaler } from "../src/index.js";
import { TIMEOUT_MS } from "./daemons.js";

const JOB = { method: "esrgan", config: { upscale_factor: 2 } } as const;
const SIZE = { width: 7, height: 5 };

/** Gives each picture back as it came. A job with a label does not end until it is cancelled. */
class Echo {
  readonly server: Server = createServer((request, response) => void this.#answer(request, response));
  readonly bodies: Buffer[] = [];
  #end: () => void = () => {};
  // Called when a job that waits has its stream.
  onHeld: () => void = () => {};
  isSilent = false;

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/behind/a/proxy/`;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (request.url ?? "").replace("/behind/a/proxy", "");
    const body = await buffer(request).catch(() => undefined); // a request that breaks off
    if (body === undefined || this.isSilent) return;
    if (path === "/api/health") return void response.end(JSON.stringify({ status: "ok", queue_size: 2, version: "9.9.9", device: null }));
    if (path.endsWith("/cancel")) this.#end();
    if (request.method === "POST") {
      if (!path.endsWith("/cancel")) this.bodies.push(body);
      return void response.writeHead(202).end(this.#job({ status: "queued" }));
    }
    const picture = pictureIn(this.bodies.at(-1) ?? Buffer.alloc(0));
    if (!path.endsWith("/events")) return void response.end(picture);
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(`data: ${this.#job({ status: "processing", progress: 50, stage: "upscale" })}\n\n`);
    const end = (job: object): void => void response.end(`data: ${this.#job(job)}\n\n`);
    const completed = { status: "completed", result_url: "/", output_size: SIZE, file_size_bytes: picture.length };
    if (!this.bodies.at(-1)?.includes('name="label"')) return end(completed);
    this.#end = () => end({ status: "cancelled", error: "the job was cancelled", code: "cancelled" });
    this.onHeld();
  }

  #job(fields: object): string {
    return JSON.stringify({ job_id: "J1", method: "esrgan", ...fields });
  }
}

/** The one file in a form. */
function pictureIn(body: Buffer): Buffer {
  const start = body.indexOf("\r\n\r\n", body.indexOf("filename=")) + 4;
  return body.subarray(start, body.lastIndexOf("\r\n--"));
}

const echo = new Echo();
let up: HttpUpscaler;
let folder: string;

before(() => new Promise<void>((resolve) => echo.server.listen(0, "127.0.0.1", resolve)));
after(() => {
  echo.server.close();
  echo.server.closeAllConnections();
});
beforeEach(async () => {
  up = new HttpUpscaler({ url: echo.url });
  folder = await mkdtemp(join(tmpdir(), "upscaled-test-"));
});

test("a file name that is no UTF-8 is read and written", { timeout: TIMEOUT_MS }, async () => {
  const bytes = (text: string): Buffer => Buffer.concat([Buffer.from(join(folder, text)), Buffer.of(0xff, 0xc3)]);
  await writeFile(bytes("in"), "picture");
  const path = (text: string): string => `${join(folder, text)}\udcff\udcc3`;
  for (const output_path of [path("out"), undefined]) {
    const config = { image_path: path("in"), ...(output_path && { output_path }) };
    const result = await up.upscale({ method: "esrgan", config });
    assert.equal(result.output_path, output_path ?? `${path("in")}_esrgan_0x.png`);
  }
  assert.equal(await readFile(bytes("out"), "utf8"), "picture");
  const names = await readdir(Buffer.from(folder), { encoding: "buffer" });
  assert.deepEqual(names.map((name) => name.toString("latin1")).sort(), ["in\xff\xc3", "in\xff\xc3_esrgan_0x.png", "out\xff\xc3"]);
});

test("it stands in for a client that starts a daemon", { timeout: TIMEOUT_MS }, async () => {
  const sameCalls: Pick<Upscaler, "upscale" | "health" | "close" | "kill"> = up;
  assert.equal((await sameCalls.health()).queue_size, 2);
  const connected = await connect({ url: echo.url });
  assert.equal((await connected.ready()).device, undefined);
  await connected.close();
});

test("a buffer goes in and a buffer comes out", { timeout: TIMEOUT_MS }, async () => {
  const seen: string[] = [];
  const options = { input: Buffer.from("picture"), output: "buffer" as const, onProgress: ({ stage }: { stage: string }) => seen.push(stage) };
  const result = await up.upscale(JOB, options);
  assert.equal(result.output.toString(), "picture");
  assert.deepEqual(result.output_size, SIZE);
  assert.deepEqual(seen, ["upscale"]);
  assert.match(String(echo.bodies.at(-1)), /name="upscale_factor"\r\n\r\n2\r\n/);
});

test("streams larger than a line go in and out, and leave no file", { timeout: TIMEOUT_MS }, async () => {
  const piece = Buffer.alloc(700_000, "x");
  const up = new HttpUpscaler({ url: echo.url, tempDir: folder });
  const pieces: Buffer[] = [];
  const output = new Writable({ write: (chunk: Buffer, _, done) => (pieces.push(chunk), done()) });
  await up.upscale(JOB, { input: Readable.from([piece, piece]), output });
  assert.equal(Buffer.concat(pieces).compare(Buffer.concat([piece, piece])), 0);
  assert.deepEqual(await readdir(folder), []);
});

test("a file is uploaded under its own name, and the result written", { timeout: TIMEOUT_MS }, async () => {
  const image_path = join(folder, 'a "b".png');
  const output_path = join(folder, "out.jpg");
  await writeFile(image_path, "picture");
  const result = await up.upscale({ method: "esrgan", config: { image_path, output_path } });
  assert.equal(result.output_path, output_path);
  assert.equal(await readFile(output_path, "utf8"), "picture");
  assert.match(String(echo.bodies.at(-1)), /filename="a %22b%22.png"/);
  assert.match(String(echo.bodies.at(-1)), /name="output_format"\r\n\r\njpeg\r\n/);
});

test("a file that grows while it is uploaded is reported, and sent once", { timeout: TIMEOUT_MS }, async () => {
  // It has the size 0, and some text.
  const config = { image_path: "/proc/version", output_path: join(folder, "out.png") };
  await assert.rejects(up.upscale({ method: "esrgan", config }), { code: "input_unreadable", message: /changed while it was sent/ });
});

test("an abort cancels the job, and its reason is the cause", { timeout: TIMEOUT_MS }, async () => {
  const abort = new AbortController();
  const reason = new Error("enough");
  echo.onHeld = () => abort.abort(reason);
  const call = up.upscale({ ...JOB, job_id: "held" }, { input: Buffer.from("picture"), output: "buffer", signal: abort.signal });
  await assert.rejects(call, (error: JobError) => {
    assert.deepEqual([error.name, error.code, error.jobId, error.cause], ["JobError", "cancelled", "held", reason]);
    assert.match(error.stack ?? "", /http\.test/);
    return true;
  });
});

test("a kill cancels what is open, and nothing is taken any more", { timeout: TIMEOUT_MS }, async () => {
  const held = new Promise<void>((resolve) => (echo.onHeld = resolve));
  const call = up.upscale({ ...JOB, job_id: "held" }, { input: Buffer.from("picture"), output: "buffer" });
  const ended = assert.rejects(call, (error: JobError) => error.code === "cancelled");
  await held;
  await up.kill();
  await ended;
  await assert.rejects(up.upscale(JOB, { input: Buffer.from("x"), output: "buffer" }), (error: JobError) => error.code === "shutting_down");
});

test("an id of a job that is open is refused", { timeout: TIMEOUT_MS }, async () => {
  const held = new Promise<void>((resolve) => (echo.onHeld = resolve));
  const request = { ...JOB, job_id: "held" };
  const call = up.upscale(request, { input: Buffer.from("picture"), output: "buffer" });
  const ended = assert.rejects(call);
  await held;
  await assert.rejects(up.upscale(request, { input: Buffer.from("x"), output: "buffer" }), (error: JobError) => error.code === "duplicate_job");
  await up.kill();
  await ended;
});

test("many jobs run 64 at a time, and one that waits for its turn ends at its abort", { timeout: TIMEOUT_MS }, async (t) => {
  const held: (() => void)[] = [];
  let arrived = (): void => {};
  t.after(() => void server.close().closeAllConnections());
  const server = createServer(async (request, response) => {
    await buffer(request);
    const job = { job_id: "J1", method: "esrgan", status: "completed" };
    held.push(() => void response.end(JSON.stringify(job)));
    arrived();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const heldJobs = (jobs: number): Promise<void> => new Promise((resolve) => {
    arrived = () => held.length >= jobs && resolve();
    arrived();
  });
  const up = new HttpUpscaler({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
  const abort = new AbortController();
  const first = heldJobs(64);
  const calls = Array.from({ length: 200 }, (_, at) =>
    up.upscale({ method: "esrgan", config: { image_url: "http://h/a.png", output_path: "a.png" } }, at === 199 ? { signal: abort.signal } : {}),
  );
  await first;
  assert.equal(held.length, 64);
  abort.abort();
  await assert.rejects(calls.pop() ?? assert.fail(), { code: "cancelled" });
  for (let jobs = 65; jobs <= 199; jobs++) {
    const next = heldJobs(jobs);
    held[jobs - 65]?.();
    await next;
    assert.equal(held.length, jobs);
  }
  for (const end of held) end();
  await Promise.all(calls);
});

test("a server that is silent, absent or no server is reported", { timeout: TIMEOUT_MS }, async () => {
  echo.isSilent = true;
  await assert.rejects(up.health({ timeoutMs: 50 }), NoAnswerError);
  echo.isSilent = false;
  await assert.rejects(connect({ url: "http://127.0.0.1:9", retry: false }), DaemonGoneError);
  assert.throws(() => new HttpUpscaler({ url: "ftp://upscaler" }), TypeError);
  assert.throws(() => new HttpUpscaler({ url: "http://name:password@upscaler" }), TypeError);
});

test("a certificate that is not trusted ends a call at the first try", { timeout: TIMEOUT_MS }, async (t) => {
  const pem = await readFile(new URL("../../../../tests/support/self_signed.pem", import.meta.url));
  let tries = 0;
  const server = createSecureServer({ key: pem, cert: pem }).on("connection", () => (tries += 1));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  await assert.rejects(connect({ url, retry: { delayMs: 0 } }), (error: Error) => {
    assert(error instanceof DaemonGoneError);
    assert.match(error.message, /self-signed certificate/);
    return true;
  });
  assert.equal(tries, 1);
});
