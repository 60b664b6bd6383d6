import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { NestFactory } from "@nestjs/core";

import { TIMEOUT_MS } from "./processes.js";
import { startRedis } from "./redis.js";
import { TestQueue } from "./workers.js";

// One pixel, as PNG.
const PIXEL =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgaGgAAAGEAQFWjyAjAAAAAElFTkSuQmCC";

const PACKAGE = new URL("../../", import.meta.url);

/** Compiles the lines as a part of this package; the module that they make. */
async function compiled(lines: string): Promise<{ AppModule: new () => object }> {
  const folder = new URL("dist/test/readme/", PACKAGE);
  await mkdir(folder, { recursive: true });
  await writeFile(new URL("lines.ts", folder), lines);
  const config = { extends: "../../../tsconfig.json", compilerOptions: { rootDir: ".", outDir: "." }, files: ["lines.ts"], include: [] };
  await writeFile(new URL("tsconfig.json", folder), JSON.stringify(config));
  const tsc = fileURLToPath(new URL("node_modules/.bin/tsc", PACKAGE));
  await promisify(execFile)(tsc, ["-p", fileURLToPath(folder)]);
  return import(new URL("lines.js", folder).href) as Promise<{ AppModule: new () => object }>;
}

test("the lines of the README's first screen run jobs", { timeout: TIMEOUT_MS }, async () => {
  const readme = await readFile(new URL("README.md", PACKAGE), "utf8");
  const [, lines = assert.fail()] = /^```ts\n(.*?)^```$/ms.exec(readme) ?? [];
  const redis = await startRedis();
  try {
    const { AppModule } = await compiled(lines.replace("6379", String(redis.port)));
    await using queue = new TestQueue(redis.port, "upscale");
    const app = await NestFactory.createApplicationContext(AppModule, { logger: false });
    try {
      const config = { image_base64: PIXEL, output_base64: true };
      const job = await queue.queue.add("a picture", { method: "esrgan", config });
      assert.deepEqual((await queue.result(job)).output_size, { width: 4, height: 4 });
    } finally {
      await app.close();
    }
  } finally {
    await redis.stop();
  }
});
