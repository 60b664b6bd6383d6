import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";

import { NestFactory } from "@nestjs/core";
import ts from "typescript";

import { TIMEOUT_MS } from "./processes.js";
import { startRedis } from "./redis.js";
import { TestQueue } from "./workers.js";

// One pixel, as PNG.
const PIXEL =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgaGgAAAGEAQFWjyAjAAAAAElFTkSuQmCC";

test("the lines of the README's first screen run jobs", { timeout: TIMEOUT_MS }, async () => {
  const readme = await readFile(new URL("../../README.md", import.meta.url), "utf8");
  const [, lines = assert.fail()] = /^```ts\n(.*?)^```$/ms.exec(readme) ?? [];
  const redis = await startRedis();
  try {
    const { outputText } = ts.transpileModule(lines.replace("6379", String(redis.port)), {
      compilerOptions: {
        target: ts.ScriptTarget.ES2022,
        module: ts.ModuleKind.ESNext,
        experimentalDecorators: true,
        emitDecoratorMetadata: true,
      },
    });
    const file = new URL("readme-lines.js", import.meta.url);
    await writeFile(file, outputText);
    const { AppModule } = (await import(file.href)) as { AppModule: new () => object };
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
