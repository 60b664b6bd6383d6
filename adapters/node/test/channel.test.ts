import assert from "node:assert/strict";
import { once } from "node:events";
import { PassThrough } from "node:stream";
import { test } from "node:test";

import { Channel } from "../src/index.js";
import type { WorkerMessage } from "../src/index.js";

function channelOf(highWaterMark?: number): {
  channel: Channel;
  read: PassThrough;
  write: PassThrough;
  messages: WorkerMessage[];
  counts: { room: number; lost: number; end: number };
} {
  const read = new PassThrough();
  const write = new PassThrough(highWaterMark === undefined ? {} : { highWaterMark });
  const messages: WorkerMessage[] = [];
  const counts = { room: 0, lost: 0, end: 0 };
  const channel = new Channel(read, write, {
    onMessage: (message) => messages.push(message),
    onRoom: () => counts.room++,
    onInputLost: () => counts.lost++,
    onEnd: () => counts.end++,
  });
  return { channel, read, write, messages, counts };
}

test("lines that are cut anywhere, within a letter too, arrive whole", async () => {
  const message = { type: "result", job_id: "é—😀", output_path: "/out/été.png" };
  const bytes = Buffer.from(`\r\n${JSON.stringify(message)}\r\n \n${JSON.stringify(message)}`);
  for (const size of [1, 2, 3, 7]) {
    const { read, messages, counts } = channelOf();
    for (let at = 0; at < bytes.length; at += size) read.write(bytes.subarray(at, at + size));
    read.end();
    await once(read, "close");
    assert.deepEqual(messages, [message, message]);
    assert.equal(counts.end, 1);
  }
});

test("what is no message is passed over", async () => {
  const { read, messages } = channelOf();
  read.end(`null\n[1]\n"ready"\n{"type":7}\n{}\n{"type":"status"\n${"[".repeat(50_000)}\n{"type":"status"}\n`);
  await once(read, "close");
  assert.deepEqual(messages, [{ type: "status" }]);
});

test("a daemon that does not read is written no more than it has room for", async () => {
  const { channel, write, counts } = channelOf(64);
  assert.ok(channel.hasRoom);
  channel.send({ type: "cancel", job_id: "x".repeat(64) });
  assert.ok(!channel.hasRoom);
  assert.equal(counts.room, 0);
  const roomy = once(write, "drain");
  write.resume();
  await roomy;
  assert.ok(channel.hasRoom);
  assert.equal(counts.room, 1);
});

test("sending to a daemon that is gone raises nothing, and it is told once", async () => {
  const { channel, write, counts } = channelOf();
  write.destroy(new Error("EPIPE"));
  await new Promise<void>((resolve) => write.once("close", resolve));
  assert.equal(counts.lost, 1);
  channel.send({ type: "health" });
  channel.close();
  assert.ok(!channel.hasRoom);
});
