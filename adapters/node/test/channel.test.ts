import assert from "node:assert/strict";
import { once } from "node:events";
import { PassThrough } from "node:stream";
import { test } from "node:test";

import { Channel } from "../src/index.js";
import type { WorkerMessage } from "../src/index.js";
import { TIMEOUT_MS } from "./daemons.js";

function channelOf(highWaterMark?: number): {
  channel: Channel;
  read: PassThrough;
  write: PassThrough;
  messages: WorkerMessage[];
  counts: { room: number; lost: number; end: number };
  faults: (string | undefined)[];
} {
  const read = new PassThrough();
  const write = new PassThrough(highWaterMark === undefined ? {} : { highWaterMark });
  const messages: WorkerMessage[] = [];
  const counts = { room: 0, lost: 0, end: 0 };
  const faults: (string | undefined)[] = [];
  const channel = new Channel(read, write, {
    onMessage: (message) => messages.push(message),
    onRoom: () => counts.room++,
    onInputLost: () => counts.lost++,
    onEnd: (fault) => {
      counts.end++;
      faults.push(fault);
    },
  });
  return { channel, read, write, messages, counts, faults };
}

/** A line past the limit of 32 MiB that begins so. */
function long(head: string, end = "\n"): Buffer {
  return Buffer.concat([Buffer.from(head), Buffer.alloc(2 ** 25, "x"), Buffer.from(`"}${end}`)]);
}

/** What comes of this stream, written in pieces. */
async function readAll(...lines: (Buffer | string)[]): Promise<ReturnType<typeof channelOf>> {
  const made = channelOf();
  const bytes = Buffer.concat(lines.map((line) => Buffer.from(line)));
  for (let at = 0; at < bytes.length; at += 1_000_000) made.read.write(bytes.subarray(at, at + 1_000_000));
  made.read.end();
  await once(made.read, "close");
  return made;
}

test("lines that are cut anywhere, within a letter too, arrive whole", { timeout: TIMEOUT_MS }, async () => {
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

test("what is no message is passed over", { timeout: TIMEOUT_MS }, async () => {
  const { read, messages } = channelOf();
  read.end(`null\n[1]\n"ready"\n{"type":7}\n{}\n{"type":"status"\n${"[".repeat(50_000)}\n{"type":"status"}\n`);
  await once(read, "close");
  assert.deepEqual(messages, [{ type: "status" }]);
});

test("a daemon that does not read is written no more than it has room for", { timeout: TIMEOUT_MS }, async () => {
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

test("sending to a daemon that is gone raises nothing, and is reported once", { timeout: TIMEOUT_MS }, async () => {
  const { channel, write, counts } = channelOf();
  write.destroy(new Error("EPIPE"));
  await new Promise<void>((resolve) => write.once("close", resolve));
  assert.equal(counts.lost, 1);
  channel.send({ type: "health" });
  channel.close();
  assert.ok(!channel.hasRoom);
});

test("a result or an error past the limit ends its job with line_too_long", { timeout: TIMEOUT_MS }, async () => {
  const id = "😀".repeat(128);
  const escaped = "\\ud83d\\ude00".repeat(128);
  const { messages, faults } = await readAll(
    long(`{"type":"result","job_id":"${escaped}","output_base64":"`),
    '{"type":"status"}\n',
    long(' { "type" : "error" , "job_id" : "b\\"" , "error":"', ""),
  );
  const [result, status, error] = messages as unknown as Record<string, unknown>[];
  assert.equal(result?.["job_id"], id);
  assert.match(String(result?.["error"]), /more than 32 MiB: give output_path instead of output_base64/);
  assert.deepEqual(status, { type: "status" });
  assert.match(String(error?.["error"]), /its error was dropped/);
  assert.deepEqual(
    { ...error, error: "" },
    { type: "error", job_id: 'b"', error: "", code: "line_too_long", retryable: false },
  );
  assert.deepEqual(faults, [undefined]);
});

test("any other line past the limit changes nothing", { timeout: TIMEOUT_MS }, async () => {
  const { messages, faults } = await readAll(
    long('{"type":"progress","job_id":"a","stage":"'),
    long('{"type":"error","job_id":null,"error":"'),
    long('{"type":"status","detail":"'),
    long("a library's print"),
    '{"type":"status"}\n',
  );
  assert.deepEqual(messages, [{ type: "status" }]);
  assert.deepEqual(faults, [undefined]);
});

for (const head of ['{"output_base64":"', '{"type":"result","output_base64":"', '{"type":"result","job_id":"']) {
  test(`a line past the limit that names no job ends the reading: ${head}`, { timeout: TIMEOUT_MS }, async () => {
    const { messages, faults } = await readAll('{"type":"status"}\n', long(head), '{"type":"status"}\n');
    assert.deepEqual(messages, [{ type: "status" }]);
    assert.equal(faults.length, 1);
    assert.match(faults[0] ?? "", /does not begin with type and job_id/);
  });
}
