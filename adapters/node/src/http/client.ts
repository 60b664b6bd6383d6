/**
 * A server, `upscaled serve`, on this machine or another one. The same calls as `Upscaler`'s.
 *
 *     const up = await HttpUpscaler.connect({ url: "http://upscaler:8080", key });
 *     const result = await up.upscale({ method: "esrgan", config: { image_path: "in.png", output_path: "out.png" } });
 */

import { randomUUID } from "node:crypto";
import { clearTimeout, setTimeout } from "node:timers";

import { Call, cancelled } from "../call.js";
import { CallSite, DaemonGoneError, JobError, NoAnswerError } from "../errors.js";
import { checkedId, jobLine, LINE_LIMIT_BYTES } from "../jobline.js";
import type { JobLine, JobRequest } from "../jobline.js";
import { boundedTimes, checkedAskOptions, checkedCallOptions } from "../options.js";
import type { AskOptions, CallOptions, RestartPolicy } from "../options.js";
import type { HealthReport, Result } from "../protocol.js";
import { Transfers } from "../transfer.js";
import type { BufferResult } from "../transfer.js";
import type { Health } from "./api.js";
import { Connection, parsed } from "./connection.js";
import { RemoteJob } from "./remotejob.js";
import { Turns } from "./turns.js";

export interface HttpUpscalerOptions {
  /** The address of `upscaled serve`, as in `http://upscaler:8080`. */
  readonly url: string | URL;
  /** One of the server's keys, if it has any. */
  readonly key?: string | undefined;
  /** Tries after a connection is lost, or the server is going down. Default: 8, from 200 ms up to 10 s apart. */
  readonly retry?: Partial<RestartPolicy> | false;
  /** Given to the jobs in flight when the client is closed; then they are cancelled. Default: 30 s. */
  readonly closeTimeoutMs?: number;
  /** Given to the server to end a job after an abort or its `timeout_s`; then the call ends without it. Default: 25 s. */
  readonly cancelGraceMs?: number;
  /** The folder of a call's `input` and `output` while it runs. Default: the system's folder for temporary files. */
  readonly tempDir?: string;
}

const CLOSE_TIMEOUT_MS = 30_000;
const CANCEL_GRACE_MS = 25_000;
const ASK_TIMEOUT_MS = 60_000;

// Jobs that run at a time: more than a server with some workers needs to be busy.
const MOST_JOBS = 64;

/** A client for this server that has answered. Rejects as `ready` does. */
export function connect(options: HttpUpscalerOptions): Promise<HttpUpscaler> {
  return HttpUpscaler.connect(options);
}

export class HttpUpscaler {
  readonly #options: HttpUpscalerOptions;
  readonly #connection: Connection;
  readonly #transfers: Transfers;
  readonly #calls = new Map<string, { call: Call; remote: RemoteJob }>();
  readonly #turns = new Turns(MOST_JOBS);
  // Called when the last call has ended, while the client is closed.
  #handleIdle: () => void = () => {};
  #closing: Promise<void> | undefined;

  /** Connects to nothing yet. Throws `TypeError` if the URL is none. */
  constructor(options: HttpUpscalerOptions) {
    this.#options = boundedTimes(options);
    this.#connection = new Connection(options.url, options.key, options.retry);
    this.#transfers = new Transfers(options.tempDir);
  }

  /** A client for this server that has answered, and takes the key. Rejects as `ready` does. */
  static async connect(options: HttpUpscalerOptions): Promise<HttpUpscaler> {
    const upscaler = new HttpUpscaler(options);
    await upscaler.ready();
    return upscaler;
  }

  /** How the server is. Rejects with `DaemonGoneError` if it cannot be reached, and with `JobError` if the key is wrong. */
  async ready(): Promise<Health> {
    const signal = AbortSignal.timeout(ASK_TIMEOUT_MS);
    const health = await this.#health(signal);
    // Health is answered without a key too.
    await this.#connection.text("/api/jobs?limit=1", { signal });
    return health;
  }

  /**
   * Run one job: its picture is uploaded, and the result written to `output_path`, or given to `output`. Rejects with
   * `JobError`; with `DaemonGoneError` if the server cannot be reached any more; with what a stream or the disk says.
   */
  upscale(request: JobRequest, options: CallOptions & { readonly output: "buffer" }): Promise<BufferResult>;
  upscale(request: JobRequest, options?: CallOptions): Promise<Result>;
  async upscale(request: JobRequest, options?: CallOptions): Promise<Result | BufferResult> {
    const site = new CallSite(this.upscale);
    const { input, output, ...rest } = options ?? {};
    const config: unknown = request?.config;
    const isObject = typeof config === "object" && config !== null && !Array.isArray(config);
    const isNamed = request?.job_id !== undefined && request.job_id !== null;
    // What is no job is refused as ever.
    if (!isObject || (input === undefined && output === undefined)) return this.#run(request, isNamed, rest, site);
    const id = checkedId(request.job_id ?? randomUUID());
    const { signal } = checkedCallOptions(id, rest);
    const refusal = this.#refusal(id, signal, site);
    if (refusal !== undefined) throw refusal;
    const run = (prepared: object): Promise<Result> =>
      this.#run({ ...request, job_id: id, config: prepared } as JobRequest, isNamed, rest, site);
    try {
      return await this.#transfers.run(id, config as Record<string, unknown>, { input, output, signal }, run);
    } catch (error) {
      if (error instanceof JobError) throw site.mark(error);
      const hasEnded = signal?.aborted || this.#closing !== undefined;
      throw (hasEnded && !(error instanceof DaemonGoneError) && this.#refusal(id, signal, site)) || error;
    }
  }

  /** How the server and its daemon are. Rejects with `DaemonGoneError`, or with `NoAnswerError`. */
  async health(options?: AskOptions): Promise<HealthReport & Health> {
    const { signal, timeoutMs = ASK_TIMEOUT_MS } = checkedAskOptions(options);
    const timeout = AbortSignal.timeout(timeoutMs);
    try {
      const health = await this.#health(signal === undefined ? timeout : AbortSignal.any([signal, timeout]));
      return { type: "health", ...health };
    } catch (error) {
      if (signal?.aborted || !timeout.aborted) throw error;
      throw new NoAnswerError(`the server did not answer within ${timeoutMs / 1000} s`, { cause: error });
    }
  }

  /** Take no more jobs, wait until those in flight have ended, and after `closeTimeoutMs` cancel what is left. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** Cancel every job in flight now, and wait until each has ended. */
  async kill(): Promise<void> {
    this.#closing ??= Promise.resolve();
    this.#transfers.endReading();
    this.#cancelAll();
    await this.#idle();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#transfers.endReading();
    const timer = setTimeout(() => this.#cancelAll(), this.#options.closeTimeoutMs ?? CLOSE_TIMEOUT_MS);
    await this.#idle();
    clearTimeout(timer);
  }

  #idle(): Promise<void> {
    return new Promise((resolve) => {
      const before = this.#handleIdle;
      this.#handleIdle = () => {
        before();
        resolve();
      };
      if (this.#calls.size === 0) this.#handleIdle();
    });
  }

  #cancelAll(): void {
    for (const { call, remote } of [...this.#calls.values()]) {
      this.#endCall(call, remote, JobError.local(call.id, "shutting_down", "the client is closed"));
    }
  }

  async #run(request: JobRequest, isNamed: boolean, options: CallOptions, site: CallSite): Promise<Result> {
    const line = jobLine(request, LINE_LIMIT_BYTES);
    const checked = checkedCallOptions(line.id, options);
    const refusal = this.#refusal(line.id, checked.signal, site);
    if (refusal !== undefined) throw refusal;
    return this.#start(line, isNamed, checked, site).outcome;
  }

  #start(line: JobLine, isNamed: boolean, options: CallOptions, site: CallSite): Call {
    const remote = new RemoteJob(this.#connection, JSON.parse(line.line) as Record<string, unknown>, isNamed, {
      onAccepted: () => call.accept(),
      onProgress: (progress) => guarded(() => call.onProgress?.(progress)),
    });
    const call = new Call(line, options, site, {
      onEnding: (ending, error) => this.#endCall(ending, remote, error),
      onSettled: ({ id }) => {
        this.#calls.delete(id);
        remote.stop();
        if (this.#calls.size === 0) this.#handleIdle();
      },
    });
    this.#calls.set(call.id, { call, remote });
    this.#turns.run(() => remote.run()).then(
      (result) => call.settle(result),
      (error: unknown) => call.settle(error instanceof Error ? error : new Error(String(error))),
    );
    return call;
  }

  #endCall(call: Call, remote: RemoteJob, error: JobError): void {
    if (remote.cancel()) call.settleWithin(this.#options.cancelGraceMs ?? CANCEL_GRACE_MS, error);
    else call.settle(error);
  }

  async #health(signal: AbortSignal): Promise<Health> {
    // A server that drains or has failed answers with 503.
    const text = await this.#connection.text("/api/health", { signal, alsoOk: 503 });
    try {
      const health = parsed<Health>(text);
      if (typeof health.status === "string") return health;
    } catch {
      // A proxy's page.
    }
    throw this.#connection.lost("it answered, but not how it is");
  }

  #refusal(id: string, signal: AbortSignal | undefined, site: CallSite): JobError | undefined {
    if (this.#closing !== undefined) return site.mark(JobError.local(id, "shutting_down", "the client is closed"));
    if (signal?.aborted) return site.mark(cancelled(id, signal));
    if (this.#calls.has(id)) return site.mark(JobError.local(id, "duplicate_job", `job ${id} is in flight`));
    return undefined;
  }
}

/** What a user's function throws is the user's, and must not end the job. */
function guarded(callback: () => void): void {
  try {
    callback();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
