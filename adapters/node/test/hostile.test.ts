/** Jobs that cannot be sent: refused here, before a daemon could get a line that it cannot answer. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { JobError, Upscaler } from "../src/index.js";
import type { ErrorCode, JobRequest } from "../src/index.js";
import { scripted, startFake, TIMEOUT_MS } from "./daemons.js";
import { Random } from "./random.js";

// Answers each job at once, and a question with the number of jobs that came.
const COUNTS = scripted({
  start: "let jobs = 0;",
  job: "jobs++; say(result(message.job_id));",
  question: 'say({ type: "health", request_id: message.request_id, status: "ok", queue_size: jobs, uptime_s: 0 });',
});

const LIMIT_BYTES = 4096;

const PICTURE = { image_path: "a.png" };
const HALF = "😀".slice(0, 1);

function nested(levels: number): unknown {
  let value: unknown = {};
  for (let level = 1; level < levels; level++) value = level % 2 ? [value] : { value };
  return value;
}

function cycle(): object {
  const one: Record<string, unknown> = {};
  one["two"] = { one };
  return one;
}

/** 2^60 values, in 60 objects. */
function doubled(): unknown {
  let value: unknown = 1;
  for (let level = 0; level < 60; level++) value = [value, value];
  return value;
}

const BROKEN = {
  get image_path(): string {
    throw new Error("the getter's own words");
  },
};

const esrgan = (config: unknown, more: object = {}): unknown => ({ method: "esrgan", config, ...more });
const withNote = (note: unknown): unknown => esrgan(PICTURE, { note });
const withId = (job_id: unknown): unknown => esrgan(PICTURE, { job_id });

const REFUSED: [string, unknown, ErrorCode, RegExp][] = [
  ["no job", undefined, "invalid_job", /undefined/],
  ["null", null, "invalid_job", /null/],
  ["a string", "esrgan", "invalid_job", /object/],
  ["a list", [], "invalid_job", /list/],
  ["a function", () => {}, "invalid_job", /function/],
  ["no method", { config: PICTURE }, "invalid_job", /method/],
  ["another message's type", esrgan(PICTURE, { type: "shutdown" }), "invalid_job", /"shutdown"/],
  ["an id that is no string", withId(7), "invalid_job", /job_id .* number/],
  ["an id that is an object", withId({}), "invalid_job", /job_id/],
  ["an empty id", withId(""), "invalid_job", /job_id .* empty/],
  ["a long id", withId("x".repeat(129)), "invalid_job", /job_id .* longer/],
  ["a long id of emoji", withId("😀".repeat(129)), "invalid_job", /job_id .* longer/],
  ["half a pair in the id", withId(`photo ${HALF}`), "invalid_job", /job_id .* surrogate/],
  ["a path's byte in the id", withId("\udce9"), "invalid_job", /job_id .* surrogate/],
  ["no config", esrgan(undefined), "invalid_job", /config/],
  ["config null", esrgan(null), "invalid_job", /config/],
  ["a config that is a list", esrgan([PICTURE]), "invalid_job", /config/],
  ["a config that is a string", esrgan("a.png"), "invalid_job", /config/],
  ["a config that is a function", esrgan(() => PICTURE), "invalid_job", /config is a function/],
  ["a config that is a symbol", esrgan(Symbol("a")), "invalid_job", /config is a symbol/],
  ["a config that is a Map", esrgan(new Map([["image_path", "a"]])), "invalid_job", /config is a Map/],
  ["a promise", esrgan({ image_path: Promise.resolve("a") }), "invalid_job", /config.image_path is a Promise/],
  ["bytes", esrgan({ image_base64: new Uint8Array(4) }), "invalid_job", /config.image_base64/],
  ["NaN", esrgan({ ...PICTURE, quality: NaN }), "invalid_job", /config.quality is NaN/],
  ["Infinity", esrgan({ ...PICTURE, quality: -Infinity }), "invalid_job", /config.quality is -Infinity/],
  ["a BigInt", esrgan({ ...PICTURE, quality: 9n }), "invalid_job", /config.quality is a bigint/],
  ["a function in a list", withNote([1, () => {}]), "invalid_job", /note.1 is a function/],
  ["half a pair in a path", esrgan({ image_path: `/in/${HALF}.png` }), "invalid_job", /config.image_path .* surrogate/],
  ["the other half in a path", esrgan({ image_path: "\ude00.png" }), "invalid_job", /surrogate/],
  ["half a pair deep inside", withNote({ a: ["x", { b: HALF }] }), "invalid_job", /note.a.1.b .* surrogate/],
  ["half a pair in a name", withNote({ [HALF]: 1 }), "invalid_job", /surrogate/],
  ["a path's byte in what is no path", withNote("\udce9"), "invalid_job", /note .* surrogate/],
  ["a cycle", withNote(cycle()), "invalid_job", /note.two.one contains itself/],
  ["a getter that throws", esrgan(BROKEN), "invalid_job", /the getter's own words/],
  ["a getter of the job that throws", BROKEN, "invalid_job", /the getter's own words/],
  ["a toJSON that throws", withNote({ toJSON: () => assert.fail("its own words") }), "invalid_job", /its own words/],
  ["a thrown undefined", withNote({ toJSON: () => Promise.reject.call(undefined) }), "invalid_job", /./],
  ["deep nesting", withNote(nested(1024)), "invalid_json", /1024/],
  ["nesting deeper than the stack", withNote(nested(1_000_000)), "invalid_json", /1024/],
  ["a toJSON without an end", withNote({ toJSON: endless }), "invalid_json", /1024/],
  ["a long line", esrgan({ image_base64: "x".repeat(LIMIT_BYTES) }), "line_too_long", /4096/],
  ["a line that is long in bytes", esrgan({ image_path: "é".repeat(LIMIT_BYTES / 2) }), "line_too_long", /4096/],
  ["a line that is long when escaped", esrgan({ image_path: "\n".repeat(LIMIT_BYTES / 2) }), "line_too_long", /4096/],
  ["an object that repeats itself", withNote(doubled()), "line_too_long", /4096/],
  ["a timeout that is a string", esrgan(PICTURE, { timeout_s: "5" }), "invalid_job", /timeout_s/],
  ["a timeout of 0", esrgan(PICTURE, { timeout_s: 0 }), "invalid_job", /timeout_s .* 0$/],
  ["a timeout past a week", esrgan(PICTURE, { timeout_s: 1e9 }), "invalid_job", /timeout_s/],
];

function endless(): object {
  return { next: { toJSON: endless } };
}

test("a job that cannot be sent is refused with its code, and nothing is written", { timeout: TIMEOUT_MS }, async () => {
  await using up = new Upscaler({ command: COUNTS, lineLimitBytes: LIMIT_BYTES });
  for (const [name, job, code, sentence] of REFUSED) {
    await assert.rejects(up.upscale(job as JobRequest), (error: unknown) => {
      assert.ok(error instanceof JobError, `${name}: ${String(error)}`);
      assert.equal(error.code, code, `${name}: ${error.message}`);
      assert.match(error.message, sentence, name);
      assert.equal(error.retryable, false);
      return true;
    });
  }
  assert.equal((await up.health()).queue_size, 0);
});

test("options of a wrong type are refused, and nothing is written", { timeout: TIMEOUT_MS }, async () => {
  await using up = new Upscaler({ command: COUNTS });
  const job: JobRequest = { method: "fake", config: {} };
  for (const options of [{ signal: "soon" }, { signal: {} }, { signal: 5 }, { onProgress: "tell me" }, { onProgress: {} }]) {
    await assert.rejects(up.upscale(job, options as object), { code: "invalid_job" });
  }
  await assert.rejects(up.health({ timeoutMs: "5" } as object), TypeError);
  await assert.rejects(up.trim({ timeoutMs: -1 }), TypeError);
  await assert.rejects(up.health({ signal: "soon" } as object), TypeError);
  assert.throws(() => up.replay([HALF]), { code: "invalid_job" });
  assert.throws(() => up.replay([7] as unknown as string[]), { code: "invalid_job" });
  assert.equal((await up.health()).queue_size, 0);
  assert.equal((await up.upscale(job, null as unknown as object)).status, "completed");
});

test("what JSON has is sent as JSON has it", { timeout: TIMEOUT_MS }, async () => {
  const echo = scripted({ job: "say({ ...result(message.job_id), model: line });" });
  await using up = new Upscaler({ command: echo, lineLimitBytes: LIMIT_BYTES });
  class Config {
    image_path = new String("é😀") as string;
    quality = undefined;
    get factor(): number {
      return 4;
    }
  }
  const job = {
    job_id: "é😀",
    method: "esrgan",
    config: new Config(),
    note: [new Date(0), undefined, null, -0, { ["__proto__"]: 1, at: new URL("http://a/") }, [[]]],
    same: [PICTURE, PICTURE],
  };
  const sent = JSON.parse((await up.upscale(job as unknown as JobRequest)).model ?? "") as unknown;
  assert.deepEqual(sent, JSON.parse(JSON.stringify(job)));

  const paths = { image_path: "/in/\udce9\udc80.png", output_path: "\udcff", upscale_model: "\udce9", pre_model: "\udce9" };
  const { model } = await up.upscale({ method: "esrgan", config: paths });
  assert.deepEqual((JSON.parse(model ?? "") as { config: unknown }).config, paths);

  const overhead = Buffer.byteLength(JSON.stringify({ method: "fake", config: { model: "" }, job_id: "1" }));
  const longest: JobRequest = { job_id: "1", method: "fake", config: { model: "x".repeat(LIMIT_BYTES - overhead) } };
  assert.equal((await up.upscale(longest)).model?.length, LIMIT_BYTES);

  await using unlimited = new Upscaler({ command: echo });
  const deepest = { ...longest, config: {}, note: nested(1023) } as JobRequest;
  assert.equal((await unlimited.upscale(deepest)).status, "completed");
});

test("every call with a hostile job settles, and the daemon continues", { timeout: TIMEOUT_MS }, async () => {
  await using up = await startFake({ lineLimitBytes: LIMIT_BYTES, args: ["--methods", "fake", "--line-limit-bytes", "4096"] });
  const seeds = Array.from({ length: 300 }, (_, seed) => seed);
  const codes = new Set<string | undefined>(["invalid_job", "invalid_json", "line_too_long", "unknown_method", "duplicate_job"]);
  const call = async (seed: number): Promise<unknown> => up.upscale(hostileJob(new Random(seed)) as JobRequest);
  for (const [seed, outcome] of (await Promise.allSettled(seeds.map(call))).entries()) {
    if (outcome.status === "fulfilled") continue;
    const reason: unknown = outcome.reason;
    assert.ok(reason instanceof JobError && codes.has(reason.code), `seed ${seed}: ${String(reason)}`);
  }
  assert.equal((await up.upscale({ method: "fake", config: {} })).status, "completed");
});

/** A job as a careless or a malicious caller might make it. */
function hostileJob(random: Random): unknown {
  const value = (depth: number): unknown => {
    const leaf = (): unknown =>
      random.one([
        null, undefined, true, 0, -1.5, 1e308, NaN, Infinity, 5n, "", "a.png", HALF, "\udce9", "😀", "\u2028\0",
        "x".repeat(random.below(200)), "é".repeat(random.below(3000)), () => {}, Symbol("s"), new Date(0), new Date(NaN),
        new Map(), new Uint8Array(2), BROKEN, cycle(), nested(random.below(1100)), doubled(),
      ]);
    if (depth === 0 || random.below(3) === 0) return leaf();
    if (random.below(3) === 0) return Array.from({ length: random.below(4) }, () => value(depth - 1));
    const names = ["image_path", "output_path", "model", "steps", HALF, "__proto__", "toJSON", "length", ""];
    return Object.fromEntries(names.filter(() => random.below(3) === 0).map((name) => [name, value(depth - 1)]));
  };
  const fields: [string, () => unknown][] = [
    ["job_id", () => random.one([undefined, null, "", 7, `id ${random.below(9)}`, HALF, "x".repeat(130), value(1)])],
    ["method", () => random.one(["fake", "fake", "fake", "esrgan", "no such", HALF, value(1)])],
    ["config", () => random.one([{}, {}, undefined, { steps: 2 }, { model: "\udce9" }, value(3)])],
    ["timeout_s", () => random.one([undefined, 5, "5", NaN, 0, value(1)])],
    ["priority", () => random.one([undefined, 1, 0.5, 1e9, value(1)])],
    ["type", () => random.one([undefined, "job", "job", "cancel", "shutdown", value(1)])],
    ["extra", () => value(3)],
  ];
  const chosen = fields.filter(([name]) => random.below(name === "method" || name === "config" ? 8 : 3) > 0);
  return random.below(20) === 0 ? value(2) : Object.fromEntries(chosen.map(([name, make]) => [name, make()]));
}
