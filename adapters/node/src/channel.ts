/**
 * The protocol over two byte streams. Knows no process.
 *
 *     host ── send ─────> one JSON line per message ──> daemon
 *     host <─ onMessage ── always reading ───────────────── daemon
 */

import type { Readable, Writable } from "node:stream";

import { LINE_LIMIT_BYTES } from "./jobline.js";
import { LineSplitter } from "./lines.js";
import { lostEnd, UNREADABLE } from "./longline.js";
import type { HostMessage, WorkerMessage } from "./protocol.js";

export interface ChannelListener {
  /** If a result or an error is in a line past the limit, the channel gives an error of its own instead. */
  onMessage(message: WorkerMessage): void;
  /** There is room again, after `send` said that there is none. */
  onRoom(): void;
  /** Nothing more can be sent, though the other side may still send. */
  onInputLost(): void;
  /** Nothing more will come. If there is a fault, nothing more is read, and the listener must end the other side. */
  onEnd(fault?: string): void;
}

export class Channel {
  readonly #readable: Readable;
  readonly #writable: Writable;
  readonly #listener: ChannelListener;
  readonly #lines = new LineSplitter(LINE_LIMIT_BYTES, (head) => this.#takeDropped(head));
  #ended = false;

  constructor(readable: Readable, writable: Writable, listener: ChannelListener) {
    this.#readable = readable;
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
    this.#take(this.#lines.end());
    if (this.#ended) return;
    this.#ended = true;
    this.#listener.onEnd();
  }

  #take(lines: Iterable<string>): void {
    for (const line of lines) {
      if (this.#ended) return;
      const message = parse(line);
      if (message !== undefined) this.#listener.onMessage(message);
    }
  }

  #takeDropped(head: string): void {
    if (this.#ended) return;
    const message = lostEnd(head);
    if (message === "unreadable") {
      this.#ended = true;
      this.#readable.destroy();
      this.#listener.onEnd(UNREADABLE);
    } else if (message !== undefined) {
      this.#listener.onMessage(message);
    }
  }
}

/** The message; undefined if the line is none, because hosts ignore what they do not understand. */
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
