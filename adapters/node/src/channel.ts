/**
 * The protocol over two byte streams. Knows no process.
 *
 *     host ── send ─────> one JSON line a message ──> daemon
 *     host <─ onMessage ── always reading ─────────── daemon
 */

import type { Readable, Writable } from "node:stream";

import { LINE_LIMIT_BYTES } from "./jobline.js";
import { LineSplitter } from "./lines.js";
import type { HostMessage, WorkerMessage } from "./protocol.js";

export interface ChannelListener {
  onMessage(message: WorkerMessage): void;
  /** There is room again, after `send` said that there is none. */
  onRoom(): void;
  /** Nothing more can be sent, though the other side may still send. */
  onInputLost(): void;
  /** Nothing more will come. */
  onEnd(): void;
}

export class Channel {
  readonly #writable: Writable;
  readonly #listener: ChannelListener;
  readonly #lines = new LineSplitter(LINE_LIMIT_BYTES);
  #ended = false;

  constructor(readable: Readable, writable: Writable, listener: ChannelListener) {
    this.#writable = writable;
    this.#listener = listener;
    writable.on("drain", () => listener.onRoom());
    writable.on("error", () => listener.onInputLost());
    readable.on("error", () => {});
    readable.on("data", (chunk: Buffer) => this.#take(this.#lines.feed(chunk)));
    readable.on("close", () => this.#end());
    readable.on("end", () => this.#end());
  }

  /** Whether more can be sent without piling it up. */
  get hasRoom(): boolean {
    return this.#writable.writable && !this.#writable.writableNeedDrain;
  }

  /** Write one message. */
  send(message: HostMessage): void {
    this.sendLine(JSON.stringify(message));
  }

  /** Write a message that is a line already. */
  sendLine(line: string): void {
    if (this.#writable.writable) this.#writable.write(`${line}\n`);
  }

  /** Say that nothing more will be sent: the daemon finishes what it has, and ends. */
  close(): void {
    this.#writable.end();
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#take(this.#lines.end());
    this.#listener.onEnd();
  }

  #take(lines: Iterable<string>): void {
    for (const line of lines) {
      const message = parse(line);
      if (message !== undefined) this.#listener.onMessage(message);
    }
  }
}

/** The message; undefined where it is none, for hosts pass over what they do not understand. */
function parse(line: string): WorkerMessage | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined;
  }
  const isMessage =
    typeof value === "object" && value !== null && "type" in value && typeof value.type === "string";
  return isMessage ? (value as WorkerMessage) : undefined;
}
