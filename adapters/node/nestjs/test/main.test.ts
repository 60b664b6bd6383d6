/** The example as a process: how it starts, and how it ends. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { TIMEOUT_MS, waitUntil } from "./processes.js";
import { freePort, startRedis } from "./redis.js";
import { HOLDING_PROGRAM } from "./scripted.js";

const MAIN = fileURLToPath(new URL("../example/main.js", import.meta.url));

let folder: string;
let daemon: string;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "upscaled-nestjs-"));
  daemon = join(folder, "python");
  await writeFile(daemon, HOLDING_PROGRAM, { mode: 0o755 });
});

after(() => rm(folder, { recursive: true }));

interface Example {
  /** What it has logged. */
  readonly text: () => string;
  readonly ended: Promise<[number | null, NodeJS.Signals | null]>;
  kill(signal: NodeJS.Signals): void;
}

function start(env: NodeJS.ProcessEnv): Example {
  const main = spawn(process.execPath, [MAIN], { cwd: folder, env: { ...process.env, NO_COLOR: "1", ...env } });
  let text = "";
  for (const stream of [main.stdout, main.stderr]) stream.on("data", (chunk: Buffer) => (text += chunk.toString()));
  const ended = once(main, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
  return { text: () => text, ended, kill: (signal) => void main.kill(signal) };
}

async function startListening(redisPort: number): Promise<Example> {
  const port = await freePort();
  const example = start({ PYTHON_PATH: daemon, REDIS_PORT: String(redisPort), PORT: String(port) });
  const sentence = `listening on http://localhost:${port}; try it out on http://localhost:${port}/api/docs`;
  await waitUntil(() => example.text().includes(sentence), `the line with its address`);
  return example;
}

test("without a daemon it ends at once, with advice", { timeout: TIMEOUT_MS }, async () => {
  const example = start({ PYTHON_PATH: "/no/such/python", REDIS_PORT: String(await freePort()) });
  assert.deepEqual(await example.ended, [1, null]);
  assert.match(example.text(), /ERROR \[main\] the daemon cannot be started: \/no\/such\/python does not exist: install upscaled/);
});

test("SIGTERM ends it without a Redis too, and one line reports the missing Redis", { timeout: TIMEOUT_MS }, async () => {
  const example = await startListening(await freePort());
  example.kill("SIGTERM");
  assert.deepEqual(await example.ended, [1, null]);
  assert.match(example.text(), /Redis did not answer within/);
  assert.equal(example.text().match(/ECONNREFUSED/g)?.length, 1, example.text());
});

test("SIGTERM ends it with a Redis", { timeout: TIMEOUT_MS }, async () => {
  const redis = await startRedis();
  try {
    const example = await startListening(redis.port);
    example.kill("SIGTERM");
    assert.deepEqual(await example.ended, [null, "SIGTERM"]);
  } finally {
    await redis.stop();
  }
});
