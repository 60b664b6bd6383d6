/** Pictures that are no files: bytes and streams, in and out, and no file left behind. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, Readable, Writable } from "node:stream";
import { after, test } from "node:test";

import { DaemonGoneError, JobError, Upscaler } from "../src/index.js";
import type { CallOptions, EsrganConfig, JobInput, JobRequest, Result } from "../src/index.js";
import { scripted, TIMEOUT_MS, waitUntil } from "./daemons.js";

const tempDir = mkdtempSync(join(tmpdir(), "upscaled-node-"));
after(() => rmSync(tempDir, { recursive: true }));

// Writes the picture backwards, and says in `device` how it came.
const BACKWARDS = scripted({
  job: `
    const { image_path, image_base64, output_path, model } = message.config;
    if (model === "hang") return say({ type: "accepted", job_id: message.job_id, position: 0 });
    if (model === "die") process.exit(3);
    if (model === "fail") return say({ type: "error", job_id: message.job_id, error: "no", code: "input_unreadable", retryable: false });
    const bytes = image_base64 ? Buffer.from(image_base64, "base64") : fs.readFileSync(image_path);
    fs.writeFileSync(output_path, bytes.reverse());
    say({ ...result(message.job_id), output_path, device: image_base64 ? "line" : "file" });`,
});
const OPTIONS = { command: BACKWARDS, tempDir, cancelGraceMs: 20, closeTimeoutMs: 20, restart: { attempts: 2, delayMs: 1 } };

const SMALL = Buffer.from("picture");
const LARGE = Buffer.alloc(3_000_000, "0123456789");

function job(config: EsrganConfig = {}): JobRequest {
  return { method: "esrgan", config };
}

function backwards(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes).reverse();
}

function pieces(bytes: Buffer): Buffer[] {
  return [bytes.subarray(0, 5), bytes.subarray(5)];
}

test("bytes and streams of every kind go in, and bytes come out", { timeout: TIMEOUT_MS }, async () => {
  await using up = new Upscaler(OPTIONS);
  for (const [bytes, way] of [[SMALL, "line"], [LARGE, "file"]] as const) {
    const inputs: JobInput[] = [
      bytes,
      new Uint8Array(bytes),
      Readable.from(pieces(bytes)),
      new Blob([bytes]).stream() as unknown as AsyncIterable<Uint8Array>,
    ];
    for (const input of inputs) {
      const result = await up.upscale(job(), { input, output: "buffer" });
      assert.ok(result.output.equals(backwards(bytes)));
      assert.equal(result.device, way);
      assert.ok(!("output_path" in result));
    }
  }
  assert.deepEqual(readdirSync(tempDir), []);
});

test("a signal that the output's own close aborts does not undo the result", { timeout: TIMEOUT_MS }, async () => {
  await using up = new Upscaler(OPTIONS);
  const gone = new AbortController();
  const got: Buffer[] = [];
  const output = new Writable({ write: (piece: Buffer, _, done) => (got.push(piece), done()) });
  output.once("close", () => gone.abort()); // as an HTTP handler does it
  const { status } = await up.upscale(job(), { input: LARGE, output, signal: gone.signal });
  assert.equal(status, "completed");
  assert.ok(Buffer.concat(got).equals(backwards(LARGE)));
});

test("a stream gets the picture and its end, a path goes with either", { timeout: TIMEOUT_MS }, async () => {
  await using up = new Upscaler(OPTIONS);
  const read = async (start: (output: Writable) => Promise<Result>): Promise<Buffer> => {
    const output = new PassThrough();
    const [chunks] = await Promise.all([output.toArray(), start(output)]);
    return Buffer.concat(chunks as Buffer[]);
  };
  assert.ok((await read((output) => up.upscale(job(), { input: LARGE, output }))).equals(backwards(LARGE)));
  const output_path = join(tempDir, "own");
  await up.upscale(job({ output_path }), { input: LARGE });
  assert.ok((await read((output) => up.upscale(job({ image_path: output_path }), { output }))).equals(LARGE));
  assert.deepEqual(readdirSync(tempDir), ["own"]);
  rmSync(output_path);
});

test("no end of a call leaves a file, and each is the call's own", { timeout: TIMEOUT_MS }, async () => {
  const broken = new Error("the disk of the other side");
  const halfway = Readable.from((async function* () { yield LARGE; throw broken; })());
  const full = new Writable({ write: (_chunk, _encoding, done) => done(broken) });
  const isCode = (code: string) => (error: unknown): boolean => error instanceof JobError && error.code === code;
  const ends: [EsrganConfig, CallOptions & { abort?: true }, (error: unknown) => boolean][] = [
    [{ model: "fail" }, { input: LARGE, output: "buffer" }, isCode("input_unreadable")],
    [{ model: "hang" }, { input: LARGE, output: "buffer", abort: true }, isCode("cancelled")],
    [{ model: "die" }, { input: LARGE, output: "buffer" }, (error) => error instanceof DaemonGoneError],
    [{}, { input: halfway, output: "buffer" }, (error) => error === broken],
    [{}, { input: new PassThrough(), output: "buffer", abort: true }, isCode("cancelled")],
    [{}, { input: Readable.from([LARGE, "text"]) as Readable, output: "buffer" }, isCode("invalid_job")],
    [{}, { input: LARGE, output: full }, (error) => error === broken],
  ];
  await using up = await Upscaler.start(OPTIONS);
  for (const [config, { abort, ...options }, isRight] of ends) {
    const aborting = new AbortController();
    if (abort) setTimeout(() => aborting.abort(), 20);
    options.signal = aborting.signal;
    await assert.rejects(up.upscale(job(config), options), isRight, JSON.stringify(config));
    assert.deepEqual(readdirSync(tempDir), []);
  }
});

test("a close and a kill end a call whose input gives nothing", { timeout: TIMEOUT_MS }, async () => {
  for (const end of ["close", "kill"] as const) {
    const up = await Upscaler.start(OPTIONS);
    const calls = [new PassThrough(), (async function* () { await new Promise(() => {}); })()].map((input) =>
      up.upscale(job(), { input, output: "buffer" }),
    );
    const settled = Promise.allSettled(calls);
    await up[end]();
    for (const outcome of await settled) assert.ok(outcome.status === "rejected" && outcome.reason.code === "shutting_down");
  }
});

test("two pictures, two places or none are refused", { timeout: TIMEOUT_MS }, async () => {
  await using up = new Upscaler(OPTIONS);
  const refusals: [EsrganConfig, CallOptions, RegExp][] = [
    [{ image_path: "a.png" }, { input: SMALL, output: "buffer" }, /input and config.image_path are two pictures/],
    [{ output_path: "a.png" }, { input: SMALL, output: "buffer" }, /output and config.output_path are two places/],
    [{}, { input: SMALL }, /give output or config.output_path/],
    [{}, { input: "a.png" as never, output: "buffer" }, /input is no Uint8Array and no stream/],
    [{}, { input: SMALL, output: "a.png" as never }, /output is neither "buffer" nor a stream/],
  ];
  for (const [config, options, sentence] of refusals) {
    await assert.rejects(up.upscale(job(config), options), (error: unknown) => {
      return error instanceof JobError && error.code === "invalid_job" && sentence.test(error.message);
    });
  }
  await assert.rejects(up.upscale(null as never, { input: SMALL }), { code: "invalid_job" });
});

test("a host that exits in the middle of a call leaves no file", { timeout: TIMEOUT_MS }, async () => {
  const script = `
    const { Upscaler } = require(${JSON.stringify(new URL("../src/index.js", import.meta.url).pathname)});
    const up = new Upscaler(${JSON.stringify(OPTIONS)});
    up.on("message", ({ type }) => type === "accepted" && process.exit(0));
    up.upscale({ method: "esrgan", config: { model: "hang" } }, { input: Buffer.alloc(2e6), output: "buffer" });`;
  const host = spawn(process.execPath, ["-e", script], { stdio: "inherit" });
  assert.deepEqual(await once(host, "exit"), [0, null]);
  await waitUntil(() => readdirSync(tempDir).length === 0, "the folder's removal");
});

test("an input without bytes is unreadable, as an empty file is", { timeout: TIMEOUT_MS }, async () => {
  await using up = new Upscaler(OPTIONS);
  for (const input of [Buffer.alloc(0), Readable.from([]), Readable.from([Buffer.alloc(0)])]) {
    await assert.rejects(up.upscale(job(), { input, output: "buffer" }), { code: "input_unreadable", retryable: false });
  }
});
