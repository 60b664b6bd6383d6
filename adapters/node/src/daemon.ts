/** One daemon process: its streams, its process group, its end. */

import { spawn } from "node:child_process";
import type { ChildProcessWithoutNullStreams } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { clearTimeout, setTimeout } from "node:timers";
import { setTimeout as delay } from "node:timers/promises";

import { Channel } from "./channel.js";
import { DaemonGoneError } from "./errors.js";
import { LineSplitter } from "./lines.js";
import type { WorkerMessage } from "./protocol.js";

/** A line of the daemon's stderr: its fields if it is JSON, else its text. */
export interface LogRecord {
  readonly level?: string;
  readonly event?: string;
  readonly text?: string;
  readonly [field: string]: unknown;
}

export interface DaemonListener {
  onMessage(message: WorkerMessage): void;
  onRoom(): void;
  /** Its stdin is closed, though it still runs. */
  onInputLost(): void;
  onLog(record: LogRecord): void;
  /** It has ended, and all its output was read. No call follows this one. */
  onGone(error: DaemonGoneError): void;
}

// From the end of stdout to the end of the process, or the reverse. After that the group is killed.
const END_GRACE_MS = 1000;

// From SIGTERM to SIGKILL. It is short, because the close timeout is over already.
const TERM_MS = 2000;

// A longer line on stderr is not one of upscaled's log records.
const LOG_LINE_LIMIT_BYTES = 1024 * 1024;

// Lines of stderr that are kept for the error: enough for a traceback.
const KEPT_LINES = 20;

export class Daemon {
  readonly channel: Channel;
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #place: { program: string; cwd?: string | undefined };
  readonly #listener: DaemonListener;
  readonly #lastLines: string[] = [];
  #failure: Error | undefined;
  // Why this client ended it.
  #fault: string | undefined;
  #hasExited = false;
  #hasEnded = false;
  #hasLogEnded = false;
  #isGone = false;
  #isKeptAlive = true;
  #endTimer: NodeJS.Timeout | undefined;
  /** Resolved when it is gone. */
  readonly gone: Promise<void>;
  #resolveGone!: () => void;

  /** Throws what `spawn` throws, if the machine has no room for another process. */
  constructor(
    command: readonly string[],
    options: { cwd?: string; env?: NodeJS.ProcessEnv },
    listener: DaemonListener,
  ) {
    this.#listener = listener;
    this.gone = new Promise((resolve) => (this.#resolveGone = resolve));
    const [program = "", ...args] = command;
    this.#place = { program, cwd: options.cwd };
    // A group of its own: a terminal's Ctrl-C goes to the host alone, and the whole group can be killed.
    this.#process = spawn(program, args, { ...options, detached: true, stdio: "pipe" });
    this.#process.on("error", (error) => {
      this.#failure = error;
      if (this.#process.pid === undefined) this.#exit();
    });
    const { stdout, stdin } = this.#process as Partial<ChildProcessWithoutNullStreams>;
    if (stdout === undefined || stdin === undefined) throw new Error("no pipe to it can be opened");
    this.channel = new Channel(stdout, stdin, {
      onMessage: (message) => listener.onMessage(message),
      onRoom: () => listener.onRoom(),
      onInputLost: () => listener.onInputLost(),
      onEnd: (fault) => {
        this.#hasEnded = true;
        this.#fault = fault;
        if (fault !== undefined) this.kill();
        this.#checkGone();
      },
    });
    this.#readLog();
    this.#process.on("exit", () => this.#exit());
  }

  /** The process's id; undefined if it could not be started. */
  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** Whether it keeps the host's event loop alive. */
  keepAlive(keep: boolean): void {
    if (keep === this.#isKeptAlive) return;
    this.#isKeptAlive = keep;
    const { stdin, stdout, stderr } = this.#process;
    // A stream that is closed would wait for its next opening, with one more listener each time.
    const streams = [stdin, stdout, stderr].filter(({ destroyed }) => !destroyed);
    // Bun's stdin has neither, and keeps no loop alive.
    for (const one of [this.#process, ...streams] as Partial<NodeJS.Timeout>[]) {
      keep ? one.ref?.() : one.unref?.();
    }
  }

  /** End it: by the end of its input, after `timeoutMs` by SIGTERM, at last by SIGKILL. */
  async close(timeoutMs: number): Promise<void> {
    this.keepAlive(true);
    this.channel.close();
    if (await this.#isGoneWithin(timeoutMs)) return;
    this.#process.kill("SIGTERM");
    if (await this.#isGoneWithin(TERM_MS)) return;
    this.kill();
    await this.gone;
  }

  /** End it now, with every process that it started. */
  kill(): void {
    const { pid } = this.#process;
    if (pid === undefined) return;
    try {
      process.kill(-pid, "SIGKILL");
    } catch {
      // No process of the group is left.
    }
  }

  async #isGoneWithin(timeoutMs: number): Promise<boolean> {
    const timer = new AbortController();
    const timeout = delay(timeoutMs, false, { signal: timer.signal }).catch(() => false);
    const isGone = await Promise.race([this.gone.then(() => true), timeout]);
    timer.abort();
    return isGone;
  }

  #readLog(): void {
    const lines = new LineSplitter(LOG_LINE_LIMIT_BYTES);
    const { stderr } = this.#process;
    stderr.on("error", () => {});
    stderr.on("data", (chunk: Buffer) => {
      for (const line of lines.feed(chunk)) {
        this.#lastLines.push(line);
        if (this.#lastLines.length > KEPT_LINES) this.#lastLines.shift();
        this.#listener.onLog(logRecord(line));
      }
    });
    stderr.on("close", () => {
      this.#hasLogEnded = true;
      this.#checkGone();
    });
  }

  #exit(): void {
    this.#hasExited = true;
    // Processes that it started may still run and hold our pipes open.
    this.kill();
    this.#checkGone();
  }

  #checkGone(): void {
    if (this.#isGone) return;
    if (this.#hasExited && this.#hasEnded && this.#hasLogEnded) {
      this.#isGone = true;
      clearTimeout(this.#endTimer);
      this.#listener.onGone(this.#error());
      this.#resolveGone();
      return;
    }
    this.#endTimer ??= setTimeout(() => {
      this.kill();
      // A process outside of the group still has these pipes.
      this.#process.stdout.destroy();
      this.#process.stderr.destroy();
    }, END_GRACE_MS);
  }

  #error(): DaemonGoneError {
    const { exitCode: status, signalCode: signal } = this.#process;
    if (this.#failure !== undefined && this.#process.pid === undefined) {
      return notStarted(this.#failure, this.#place);
    }
    const ended = signal === null ? `ended with status ${status}` : `ended by ${signal}`;
    const how = this.#fault === undefined ? ended : `was ended, because ${this.#fault}`;
    const lines = this.#lastLines.length > 0 ? `; its log ended with:\n${this.#lastLines.join("\n")}` : "";
    return new DaemonGoneError(`the daemon ${how}${lines}`, { status, signal });
  }
}

/** Why there is no process. Of a missing folder `spawn` says the same as of a missing program. */
export function notStarted(cause: unknown, { program, cwd }: { program: string; cwd?: string | undefined }): DaemonGoneError {
  const why = reasonOf(cause, program, cwd);
  return new DaemonGoneError(`the daemon cannot be started: ${why}`, {}, { cause });
}

function reasonOf(cause: unknown, program: string, cwd: string | undefined): string {
  if (!isFolder(cwd)) return `its working directory ${cwd} does not exist or is no folder`;
  const { code, message } = cause as Partial<NodeJS.ErrnoException>;
  if (code !== "ENOENT") return message ?? String(cause);
  // A script whose interpreter has been moved, as with a virtual environment, ends the same way.
  const isThere = program.includes("/") && existsSync(resolve(cwd ?? "", program));
  const where = isThere ? "names an interpreter that does not exist" : program.includes("/") ? "does not exist" : "is not in PATH";
  return `${program} ${where}: install upscaled, or name its program by the option \`command\``;
}

function isFolder(cwd: string | undefined): boolean {
  return cwd === undefined || statSync(cwd, { throwIfNoEntry: false })?.isDirectory() === true;
}

function logRecord(line: string): LogRecord {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as LogRecord;
  } catch {
    // Some library's print.
  }
  return { text: line };
}
