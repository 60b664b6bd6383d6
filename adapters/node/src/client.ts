/**
 * A client that starts its own daemon, and starts it again if it exits.
 *
 *     const up = await Upscaler.start();
 *     const result = await up.upscale({ method: "esrgan", config: { image_path: "photo.jpg" } });
 *     await up.close();
 */

import { randomUUID } from "node:crypto";
import { EventEmitter, on } from "node:events";
import { clearTimeout, setTimeout } from "node:timers";

import { Backlog } from "./backlog.js";
import { Call, cancelled } from "./call.js";
import { Daemon, notStarted } from "./daemon.js";
import type { LogRecord } from "./daemon.js";
import { CallSite, DaemonGoneError, JobError } from "./errors.js";
import { checkedId, jobLine, LINE_LIMIT_BYTES } from "./jobline.js";
import type { JobRequest } from "./jobline.js";
import { boundedTimes, checkedAskOptions, checkedCallOptions } from "./options.js";
import type { AskOptions, CallOptions, UpscalerOptions } from "./options.js";
import type { ErrorMessage, HealthReport, Result, Status, WorkerMessage } from "./protocol.js";
import { Questions } from "./questions.js";
import { Restarts } from "./restarts.js";
import { Transfers } from "./transfer.js";
import type { BufferResult } from "./transfer.js";

export interface UpscalerEvents {
  /** Every message of the daemon. */
  message: [WorkerMessage];
  /** Every line of its stderr. */
  log: [LogRecord];
  /** The daemon exited without a close. It is started again, if the policy allows that. */
  gone: [DaemonGoneError];
  /** The client is closed, or has given up. */
  end: [];
}

const COMMAND = ["upscaled", "run"];
const CLOSE_TIMEOUT_MS = 30_000;

// The daemon needs up to 20 s (`--cancel-grace-s`), and some more to kill a worker.
const CANCEL_GRACE_MS = 25_000;

export class Upscaler extends EventEmitter<UpscalerEvents> {
  readonly #options: UpscalerOptions;
  readonly #restarts: Restarts;
  readonly #calls = new Map<string, Call>();
  readonly #backlog = new Backlog();
  readonly #questions = new Questions();
  readonly #transfers: Transfers;
  readonly #ready: Promise<Status>;
  #settleReady!: (outcome: Status | Error) => void;
  #daemon: Daemon | undefined;
  #backoff: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;
  // Once the daemon's input has ended, nothing can be sent again.
  #hasEndedInput = false;
  #handleWritten: () => void = () => {};
  #end: DaemonGoneError | undefined;

  /** Starts the daemon; does not wait for it. Jobs are taken at once. */
  constructor(options: UpscalerOptions = {}) {
    super();
    this.#options = boundedTimes(options);
    this.#restarts = new Restarts(options.restart);
    this.#transfers = new Transfers(options.tempDir);
    this.#ready = new Promise((resolve, reject) => {
      this.#settleReady = (outcome) => (outcome instanceof Error ? reject(outcome) : resolve(outcome));
    });
    this.#ready.catch(() => {}); // `ready()` passes the error on
    this.#spawn();
  }

  /** A client whose daemon is ready. Rejects with `DaemonGoneError` if the daemon does not get ready. */
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

  /**
   * Run one job. Rejects with `JobError`; with `DaemonGoneError` if the daemon exited after it had
   * accepted the job, or cannot be started; with the error of a stream or the disk. A job that cannot be sent is
   * refused before anything is written. The error's stack begins with the caller's line.
   */
  upscale(request: JobRequest, options: CallOptions & { readonly output: "buffer" }): Promise<BufferResult>;
  upscale(request: JobRequest, options?: CallOptions): Promise<Result>;
  async upscale(request: JobRequest, options?: CallOptions): Promise<Result | BufferResult> {
    const site = new CallSite(this.upscale);
    if (options?.input === undefined && options?.output === undefined) return this.#run(request, options, site);
    return this.#transfer(request, options, site);
  }

  /** Runs a job whose picture comes from the caller, or goes there. */
  async #transfer(request: JobRequest, options: CallOptions, site: CallSite): Promise<Result | BufferResult> {
    const { input, output, ...rest } = options;
    const config: unknown = request?.config;
    // `#run` refuses what is no job.
    if (typeof config !== "object" || config === null || Array.isArray(config)) return this.#run(request, rest, site);
    const id = checkedId(request.job_id ?? randomUUID());
    const { signal } = checkedCallOptions(id, rest);
    const refusal = this.#refusal(id, signal, site);
    if (refusal !== undefined) throw refusal;
    const run = (prepared: object): Promise<Result> =>
      this.#run({ ...request, job_id: id, config: prepared } as JobRequest, rest, site);
    try {
      return await this.#transfers.run(id, config as Record<string, unknown>, { input, output, signal }, run);
    } catch (error) {
      if (error instanceof JobError) throw site.mark(error);
      const hasEnded = signal?.aborted || this.#closing !== undefined || this.#end !== undefined;
      // Else it is an error of the stream or the disk, or the daemon's end.
      throw (hasEnded && !(error instanceof DaemonGoneError) && this.#refusal(id, signal, site)) || error;
    }
  }

  async #run(request: JobRequest, options: CallOptions | undefined, site: CallSite): Promise<Result> {
    const line = jobLine(request, this.#options.lineLimitBytes ?? LINE_LIMIT_BYTES);
    const checked = checkedCallOptions(line.id, options);
    const refusal = this.#refusal(line.id, checked.signal, site);
    if (refusal !== undefined) throw refusal;
    const call = new Call(line, checked, site, {
      onEnding: (ending, error) => this.#endCall(ending, error),
      onSettled: (settled) => this.#handleSettled(settled),
    });
    this.#calls.set(call.id, call);
    this.#backlog.add(call);
    this.#updateLiveness();
    this.#write();
    return call.outcome;
  }

  /** The daemon's state. Rejects with `DaemonGoneError`, or with `NoAnswerError`. */
  health(options?: AskOptions): Promise<HealthReport> {
    return this.#ask("health", options);
  }

  /** Ask it to free its caches and the models that no job uses. Rejects as `health` does. */
  trim(options?: AskOptions): Promise<HealthReport> {
    return this.#ask("trim", options);
  }

  /** Ask a daemon with a journal to send the ends of these jobs again, or of all jobs; see `events`. Throws `JobError`. */
  replay(jobIds?: readonly string[]): void {
    this.#questions.replay(jobIds?.map(checkedId));
    this.#write();
  }

  /** Every message of the daemon from now on, until the client ends. They are kept until the loop takes them. */
  events(options: { signal?: AbortSignal } = {}): AsyncGenerator<WorkerMessage, void, void> {
    // It listens at once, and not with the loop's first turn. A client that has ended does not say so again.
    return messagesOf(this.#end ? [] : on(this, "message", { ...options, close: ["end"] } as object));
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
    this.#updateLiveness();
    this.#daemon?.kill();
    await this.#daemon?.gone;
    this.#finish(new DaemonGoneError("the daemon was killed by its host"));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    clearTimeout(this.#backoff);
    this.#transfers.endReading();
    const timeoutMs = this.#options.closeTimeoutMs ?? CLOSE_TIMEOUT_MS;
    const start = performance.now();
    await this.#waitWritten(timeoutMs);
    this.#hasEndedInput = true;
    // Stream writes keep their order, so the end of the input comes after the last job.
    await this.#daemon?.close(Math.max(0, timeoutMs - (performance.now() - start)));
    this.#finish(new DaemonGoneError("the client is closed"));
  }

  /** Resolves when no job waits to be written, at the latest after this time. */
  #waitWritten(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#handleWritten = () => {
        clearTimeout(timer);
        resolve();
      };
      this.#write();
    });
  }

  #refusal(id: string, signal: AbortSignal | undefined, site: CallSite): Error | undefined {
    if (this.#closing !== undefined) return site.mark(JobError.local(id, "shutting_down", "the client is closed"));
    if (this.#end !== undefined) return this.#end.ofCall(site);
    if (signal?.aborted) return site.mark(cancelled(id, signal));
    if (this.#calls.has(id) || this.#backlog.holds(id)) {
      return site.mark(JobError.local(id, "duplicate_job", `job ${id} is in flight`));
    }
    return undefined;
  }

  /** The caller or the clock ends a call. The daemon gets some time to end its job. */
  #endCall(call: Call, error: JobError): void {
    if (this.#backlog.isWaiting(call)) return call.settle(error);
    this.#daemon?.channel.send({ type: "cancel", job_id: call.id });
    call.settleWithin(this.#options.cancelGraceMs ?? CANCEL_GRACE_MS, error);
  }

  #handleSettled(call: Call): void {
    this.#calls.delete(call.id);
    this.#backlog.remove(call);
    this.#updateLiveness();
    this.#write();
  }

  async #ask(type: "health" | "trim", options: AskOptions | undefined): Promise<HealthReport> {
    const checked = checkedAskOptions(options);
    const end = this.#closing ? new DaemonGoneError("the client is closed") : this.#end;
    if (end !== undefined) throw end;
    const answer = this.#questions.ask(type, checked, () => this.#updateLiveness());
    this.#updateLiveness();
    this.#write();
    return answer;
  }

  /** Write what waits, as long as there is room. */
  #write(): void {
    const channel = this.#daemon?.channel;
    if (channel !== undefined) this.#questions.write(channel);
    while (channel?.hasRoom) {
      const call = this.#backlog.take();
      if (call === undefined) break;
      channel.sendLine(call.line);
    }
    if (channel === undefined || this.#backlog.isWritten) this.#handleWritten();
  }

  #spawn(): void {
    const { command = COMMAND, args = [], cwd, env } = this.#options;
    this.#restarts.handleStart();
    try {
      this.#daemon = new Daemon(
        [...command, ...args],
        { ...(cwd !== undefined && { cwd }), ...(env !== undefined && { env }) },
        {
          onMessage: (message) => this.#handle(message),
          onRoom: () => this.#write(),
          onInputLost: () => this.#handleInputLost(),
          onLog: (record) => this.emit("log", record),
          onGone: (error) => this.#handleGone(error),
        },
      );
    } catch (error) {
      // Later, as all other ends of a daemon: the caller of the constructor listens to nothing yet.
      queueMicrotask(() => this.#handleGone(notStarted(error, { program: command[0] ?? "", cwd })));
    }
    this.#updateLiveness();
    this.#write();
  }

  #handle(message: WorkerMessage): void {
    switch (message.type) {
      case "status":
        if (message.message === "ready") this.#handleReady(message);
        break;
      case "accepted":
        this.#backlog.accepted(message.job_id);
        this.#calls.get(message.job_id)?.accept();
        if (this.#closing !== undefined) this.#write();
        break;
      case "progress": {
        const call = this.#calls.get(message.job_id);
        call?.accept();
        if (call?.onProgress !== undefined) guarded(() => call.onProgress?.(message));
        break;
      }
      case "result":
        this.#settle(message.job_id, message);
        break;
      case "error":
        // An error without an id ends no job.
        if (typeof message.job_id === "string") this.#handleError(message.job_id, message);
        break;
      case "health":
        this.#questions.answer(message);
        break;
    }
    guarded(() => this.emit("message", message));
  }

  #handleError(id: string, message: ErrorMessage): void {
    const call = this.#calls.get(id);
    const isRefused = call !== undefined && !call.isAccepted && !call.isEnding;
    if (isRefused && this.#waitAgain(call, message.code)) return this.#write();
    this.#settle(id, new JobError(id, message));
  }

  /** Whether a job that was not accepted can wait: for room, or for the next daemon. */
  #waitAgain(call: Call, code: string): boolean {
    if (code === "queue_full") return !this.#hasEndedInput && this.#backlog.waitForRoom(call);
    if (code !== "shutting_down" || this.#closing !== undefined || !this.#restarts.mayLose(call)) return false;
    this.#backlog.waitForNext(call);
    return true;
  }

  #settle(id: string, outcome: Result | JobError): void {
    this.#backlog.ended(id);
    const call = this.#calls.get(id);
    if (call === undefined) this.#write();
    else call.settle(outcome);
  }

  /** It takes no more jobs, and may finish those that it has. Those that it did not accept go to the next daemon. */
  #handleInputLost(): void {
    void this.#daemon?.close(this.#options.closeTimeoutMs ?? CLOSE_TIMEOUT_MS);
  }

  #handleReady(status: Status): void {
    this.#restarts.handleReady();
    this.#settleReady(status);
    this.#updateLiveness();
  }

  #handleGone(error: DaemonGoneError): void {
    this.#daemon = undefined;
    this.#questions.rejectAll(error);
    if (this.#closing !== undefined) return this.#finish(error);
    this.#keepUnaccepted(error);
    guarded(() => this.emit("gone", error));
    const delayMs = this.#restarts.delayMsAfter(error);
    if (delayMs === undefined) return this.#finish(error);
    this.#backoff = setTimeout(() => this.#spawn(), delayMs);
    this.#updateLiveness();
  }

  /** A job that no daemon has accepted is sent to the next one; the others end with the daemon. */
  #keepUnaccepted(error: DaemonGoneError): void {
    const calls = [...this.#calls.values()];
    const isKept = (call: Call): boolean =>
      this.#backlog.isWaiting(call) || (!call.isAccepted && !call.isEnding && this.#restarts.mayLose(call));
    const kept = new Set(calls.filter(isKept));
    this.#backlog.restart(kept);
    for (const call of calls) if (!kept.has(call)) call.settle(error);
  }

  /** No daemon will follow: settle the open calls. */
  #finish(error: DaemonGoneError): void {
    if (this.#end !== undefined) return;
    this.#end = error;
    this.#transfers.endReading();
    this.#settleReady(error);
    for (const call of [...this.#calls.values()]) call.settle(error);
    this.#questions.rejectAll(error);
    this.#handleWritten();
    guarded(() => this.emit("end"));
  }

  /** An idle daemon does not keep the host's process from ending; one that is awaited does. */
  #updateLiveness(): void {
    const isAwaited = this.#calls.size > 0 || this.#questions.size > 0 || !this.#restarts.wasReady;
    this.#daemon?.keepAlive(isAwaited || this.#closing !== undefined);
    isAwaited ? this.#backoff?.ref() : this.#backoff?.unref();
  }
}

async function* messagesOf(events: Iterable<unknown[]> | AsyncIterable<unknown[]>): AsyncGenerator<WorkerMessage, void, void> {
  for await (const [message] of events) yield message as WorkerMessage;
}

/** An error in a user's function must not end the reading. */
function guarded(callback: () => void): void {
  try {
    callback();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
