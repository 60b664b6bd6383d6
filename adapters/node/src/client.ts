/**
 * A daemon of one's own, started again where it dies.
 *
 *     const up = await Upscaler.start();
 *     const result = await up.upscale({ method: "esrgan", config: { image_path: "photo.jpg" } });
 *     await up.close();
 */

import { randomUUID } from "node:crypto";
import { EventEmitter, on } from "node:events";
import { clearTimeout, setTimeout } from "node:timers";

import { Daemon } from "./daemon.js";
import type { LogRecord } from "./daemon.js";
import { DaemonGoneError, JobError } from "./errors.js";
import type { HealthReport, Job, Progress, Result, Status, WorkerMessage } from "./protocol.js";

export interface RestartPolicy {
  /** Starts in a row that may fail before it is given up. */
  readonly attempts: number;
  /** Before the first new start; doubled with each that fails. */
  readonly delayMs: number;
  readonly maxDelayMs: number;
}

export interface UpscalerOptions {
  /** The daemon. Default: `upscaled run`. */
  readonly command?: readonly string[];
  /** More of its arguments, as in `["--workers", "2"]`. */
  readonly args?: readonly string[];
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** False: it is never started again. */
  readonly restart?: Partial<RestartPolicy> | false;
  /** Given to the jobs in flight when the client is closed. Default: 30 s. */
  readonly closeTimeoutMs?: number;
}

type Request<J> = J extends Job ? Omit<J, "type" | "job_id" | "attempt"> & { job_id?: string } : never;

/** A job; without a `job_id` it is given one. */
export type JobRequest = Request<Job>;

export interface CallOptions {
  /** Cancels the job. The call ends when the daemon has let go of it: with `cancelled`, as a rule. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
}

export interface UpscalerEvents {
  /** Every message of the daemon. */
  message: [WorkerMessage];
  /** Every line of its stderr. */
  log: [LogRecord];
  /** It went away by itself. It is started again, if the policy allows that. */
  gone: [DaemonGoneError];
  /** The client is closed, or has given up. */
  end: [];
}

const COMMAND = ["upscaled", "run"];
const RESTART: RestartPolicy = { attempts: 5, delayMs: 200, maxDelayMs: 10_000 };
const CLOSE_TIMEOUT_MS = 30_000;

// The daemon's exit status for wrong usage.
const USAGE_STATUS = 2;

interface Call {
  readonly job: Job;
  readonly onProgress: ((progress: Progress) => void) | undefined;
  settle(outcome: Result | Error): void;
}

interface Question {
  readonly type: "health" | "trim";
  settle(outcome: HealthReport | Error): void;
}

export class Upscaler extends EventEmitter<UpscalerEvents> {
  readonly #options: UpscalerOptions;
  readonly #restart: RestartPolicy | undefined;
  readonly #calls = new Map<string, Call>();
  // Calls whose job is not written yet, in order.
  readonly #unsent = new Set<Call>();
  // The first is asked; an answer does not say what it answers, so the others wait for theirs.
  readonly #questions: Question[] = [];
  readonly #ready: Promise<Status>;
  #settleReady!: (outcome: Status | Error) => void;
  #daemon: Daemon | undefined;
  #isReady = false;
  #wasReady = false;
  #failedStarts = 0;
  #backoff: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;
  #end: DaemonGoneError | undefined;

  /** Starts the daemon; does not wait for it. Jobs are taken at once. */
  constructor(options: UpscalerOptions = {}) {
    super();
    this.#options = options;
    this.#restart = options.restart === false ? undefined : { ...RESTART, ...options.restart };
    this.#ready = new Promise((resolve, reject) => {
      this.#settleReady = (outcome) => (outcome instanceof Error ? reject(outcome) : resolve(outcome));
    });
    this.#ready.catch(() => {}); // whoever asks gets it
    this.#spawn();
  }

  /** A daemon that is ready. Rejects with `DaemonGoneError` where it cannot get there. */
  static async start(options: UpscalerOptions = {}): Promise<Upscaler> {
    const upscaler = new Upscaler(options);
    await upscaler.ready();
    return upscaler;
  }

  /** What the daemon said when it first got ready: its methods, models and device. */
  ready(): Promise<Status> {
    return this.#ready;
  }

  /** The daemon's process; undefined while there is none. */
  get pid(): number | undefined {
    return this.#daemon?.pid;
  }

  /** Run one job. Rejects with `JobError`, or with `DaemonGoneError` where the daemon went away. */
  upscale(request: JobRequest, { signal, onProgress }: CallOptions = {}): Promise<Result> {
    const job: Job = { ...request, job_id: request.job_id ?? randomUUID() };
    const id = job.job_id;
    return new Promise((resolve, reject) => {
      const refusal = this.#refusal(id, signal);
      if (refusal !== undefined) return reject(refusal);
      const cancel = (): void => this.#cancel(call, signal?.reason);
      const call: Call = {
        job,
        onProgress,
        settle: (outcome) => {
          signal?.removeEventListener("abort", cancel);
          this.#calls.delete(id);
          this.#unsent.delete(call);
          if (outcome instanceof JobError && signal?.aborted) outcome.cause ??= signal.reason;
          outcome instanceof Error ? reject(outcome) : resolve(outcome);
          this.#updateLiveness();
        },
      };
      signal?.addEventListener("abort", cancel, { once: true });
      this.#calls.set(id, call);
      this.#unsent.add(call);
      this.#updateLiveness();
      this.#write();
    });
  }

  /** How the daemon is. Rejects with `DaemonGoneError`. */
  health(): Promise<HealthReport> {
    return this.#ask("health");
  }

  /** Have it free its caches and the models that no job is using. Rejects with `DaemonGoneError`. */
  trim(): Promise<HealthReport> {
    return this.#ask("trim");
  }

  /** Have a daemon with a journal say again how these jobs ended, or all; see `events`. */
  replay(jobIds?: readonly string[]): void {
    this.#daemon?.channel.send(
      jobIds === undefined ? { type: "replay" } : { type: "replay", job_ids: [...jobIds] },
    );
  }

  /** Every message of the daemon from now on, until the client ends. */
  async *events(options: { signal?: AbortSignal } = {}): AsyncGenerator<WorkerMessage, void, void> {
    for await (const [message] of on(this, "message", { ...options, close: ["end"] } as object)) {
      yield message as WorkerMessage;
    }
  }

  /**
   * Take no more jobs, let the daemon finish those that it has, and end it: after `closeTimeoutMs` by
   * SIGTERM, and then by SIGKILL of its process group. Resolves when it is gone.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** End the daemon now, with every process that it started. Open calls are rejected. */
  async kill(): Promise<void> {
    this.#closing ??= Promise.resolve();
    clearTimeout(this.#backoff);
    this.#daemon?.kill();
    await this.#daemon?.gone;
    this.#finish(new DaemonGoneError("the daemon was killed by its host"));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    clearTimeout(this.#backoff);
    const timeoutMs = this.#options.closeTimeoutMs ?? CLOSE_TIMEOUT_MS;
    // Stream writes keep their order, so the end of the input comes after the last job.
    for (const call of this.#unsent) this.#send(call);
    await this.#daemon?.close(timeoutMs);
    this.#finish(new DaemonGoneError("the client is closed"));
  }

  #refusal(id: string, signal: AbortSignal | undefined): Error | undefined {
    if (this.#closing !== undefined) return JobError.local(id, "shutting_down", "the client is closed");
    if (this.#end !== undefined) return this.#end;
    if (signal?.aborted) return cancelled(id, signal.reason);
    if (this.#calls.has(id)) return JobError.local(id, "duplicate_job", `job ${id} is in flight`);
    return undefined;
  }

  #cancel(call: Call, reason: unknown): void {
    if (this.#unsent.has(call)) call.settle(cancelled(call.job.job_id, reason));
    else this.#daemon?.channel.send({ type: "cancel", job_id: call.job.job_id });
  }

  #ask(type: Question["type"]): Promise<HealthReport> {
    return new Promise((resolve, reject) => {
      const end = this.#closing ? new DaemonGoneError("the client is closed") : this.#end;
      if (end !== undefined) return reject(end);
      const settle: Question["settle"] = (outcome) =>
        outcome instanceof Error ? reject(outcome) : resolve(outcome);
      this.#questions.push({ type, settle });
      if (this.#questions.length === 1) this.#daemon?.channel.send({ type });
      this.#updateLiveness();
    });
  }

  /** Write the jobs that wait, as long as there is room. */
  #write(): void {
    for (const call of this.#unsent) {
      if (!this.#daemon?.channel.hasRoom) return;
      this.#send(call);
    }
  }

  #send(call: Call): void {
    if (this.#daemon === undefined) return;
    this.#unsent.delete(call);
    this.#daemon.channel.send(call.job);
  }

  #spawn(): void {
    const { command = COMMAND, args = [], cwd, env } = this.#options;
    this.#isReady = false;
    this.#daemon = new Daemon(
      [...command, ...args],
      { ...(cwd !== undefined && { cwd }), ...(env !== undefined && { env }) },
      {
        onMessage: (message) => this.#handle(message),
        onRoom: () => this.#write(),
        onLog: (record) => this.emit("log", record),
        onGone: (error) => this.#handleGone(error),
      },
    );
    const [question] = this.#questions;
    if (question !== undefined) this.#daemon.channel.send({ type: question.type });
    this.#updateLiveness();
    this.#write();
  }

  #handle(message: WorkerMessage): void {
    switch (message.type) {
      case "status":
        if (message.message === "ready") this.#handleReady(message);
        break;
      case "progress": {
        const call = this.#calls.get(message.job_id);
        if (call?.onProgress !== undefined) guarded(() => call.onProgress?.(message));
        break;
      }
      case "result":
        this.#calls.get(message.job_id)?.settle(message);
        break;
      case "error":
        // An error without an id ends no job.
        if (typeof message.job_id === "string") {
          this.#calls.get(message.job_id)?.settle(new JobError(message.job_id, message));
        }
        break;
      case "health":
        this.#handleHealth(message);
        break;
    }
    guarded(() => this.emit("message", message));
  }

  #handleReady(status: Status): void {
    this.#isReady = true;
    this.#wasReady = true;
    this.#failedStarts = 0;
    this.#settleReady(status);
    this.#updateLiveness();
  }

  #handleHealth(report: HealthReport): void {
    this.#questions.shift()?.settle(report);
    const [next] = this.#questions;
    if (next !== undefined) this.#daemon?.channel.send({ type: next.type });
    this.#updateLiveness();
  }

  #handleGone(error: DaemonGoneError): void {
    this.#daemon = undefined;
    this.#failedStarts += this.#isReady ? 0 : 1;
    for (const call of [...this.#calls.values()]) {
      if (!this.#unsent.has(call)) call.settle(error);
    }
    for (const question of this.#questions.splice(0)) question.settle(error);
    if (this.#closing !== undefined) return this.#finish(error);
    guarded(() => this.emit("gone", error));
    const { attempts = 0, delayMs = 0, maxDelayMs = 0 } = this.#restart ?? {};
    if (this.#failedStarts >= attempts || isHopeless(error)) return this.#finish(error);
    const delayNow = Math.min(delayMs * 2 ** this.#failedStarts, maxDelayMs);
    this.#backoff = setTimeout(() => this.#spawn(), delayNow);
    this.#updateLiveness();
  }

  /** Nothing more will be done: settle what is open. */
  #finish(error: DaemonGoneError): void {
    if (this.#end !== undefined) return;
    this.#end = error;
    this.#settleReady(error);
    for (const call of [...this.#calls.values()]) call.settle(error);
    for (const question of this.#questions.splice(0)) question.settle(error);
    guarded(() => this.emit("end"));
  }

  /** An idle daemon does not keep the host's process from ending; one that is awaited does. */
  #updateLiveness(): void {
    const isAwaited = this.#calls.size > 0 || this.#questions.length > 0 || !this.#wasReady;
    this.#daemon?.keepAlive(isAwaited || this.#closing !== undefined);
    isAwaited ? this.#backoff?.ref() : this.#backoff?.unref();
  }
}

/** Whether a new start would end the same way. */
function isHopeless({ status, cause }: DaemonGoneError): boolean {
  return status === USAGE_STATUS || (cause instanceof Error && "code" in cause && cause.code === "ENOENT");
}

function cancelled(id: string, reason: unknown): JobError {
  return JobError.local(id, "cancelled", "the job was cancelled", { cause: reason });
}

/** What a user's function throws is the user's, and must not end our reading. */
function guarded(callback: () => void): void {
  try {
    callback();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
