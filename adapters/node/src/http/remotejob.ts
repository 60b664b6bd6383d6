/**
 * One job's way over a server:
 *
 *     POST the picture ──> its events, until one is the last ──> GET the result
 *          │ lost: sent again, under the same key   │ lost: asked for again    │ lost: read on from there
 */

import { Readable } from "node:stream";

import { onAbort } from "../aborts.js";
import { JobError } from "../errors.js";
import type { ErrorCode, Progress, Result } from "../protocol.js";
import type { Job } from "./api.js";
import { parsed } from "./connection.js";
import type { Connection } from "./connection.js";
import { Destination } from "./destination.js";
import { dataOf } from "./events.js";
import { Submission } from "./submission.js";

const ENDS = new Set(["completed", "failed", "cancelled"]);

type Shared = Exclude<keyof Job & keyof Result, "job_id" | "status">;

// The result's fields that a job has under the same names: the compiler names one that is not here.
const SHARED: Readonly<Record<Shared, true>> = {
  input_size: true,
  output_size: true,
  scale_factor: true,
  crop_info: true,
  processing_time: true,
  timings: true,
  model: true,
  model_reason: true,
  device: true,
  precision: true,
  upstream_calls: true,
  faces: true,
  attempt: true,
  warnings: true,
};

export interface RemoteJobListener {
  onAccepted(): void;
  onProgress(progress: Progress): void;
}

export class RemoteJob {
  readonly #connection: Connection;
  readonly #job: Record<string, unknown>;
  readonly #isNamed: boolean;
  readonly #listener: RemoteJobListener;
  // Ends what is under way for this job.
  readonly #stop = new AbortController();
  #submission: Submission | undefined;
  // The server's id of the job.
  #serverId: string | undefined;
  #isCancelled = false;

  /** `isNamed`: the caller gave the job its id, which the server then shows as its label. */
  constructor(connection: Connection, job: Record<string, unknown>, isNamed: boolean, listener: RemoteJobListener) {
    this.#connection = connection;
    this.#job = job;
    this.#isNamed = isNamed;
    this.#listener = listener;
  }

  /** Runs it. Throws `JobError`, `DaemonGoneError`; after `stop`, any error. */
  async run(): Promise<Result> {
    // It may have been ended while it waited for its turn.
    this.#stop.signal.throwIfAborted();
    const config = (this.#job["config"] ?? {}) as Record<string, unknown>;
    const destination = new Destination(this.#id, config);
    await destination.check(config["output_format"] !== undefined);
    this.#submission = await Submission.of(this.#job, this.#isNamed, destination.format);
    const accepted = await this.#submit(this.#submission);
    const job = await this.#end(accepted);
    if (job.status !== "completed") throw this.#errorOf(job);
    return this.#result(job, destination);
  }

  /** Asks the server to end the job; false if the server does not have it, and never will. */
  cancel(): boolean {
    this.#isCancelled = true;
    if (this.#serverId !== undefined) {
      void this.#sendCancel(this.#serverId);
      return true;
    }
    // Once the server has the whole request, its answer has the id to cancel.
    if (this.#submission?.isSent) return true;
    this.stop();
    return false;
  }

  /** Nothing more is done for it here. */
  stop(): void {
    this.#stop.abort();
  }

  get #id(): string {
    return String(this.#job["job_id"]);
  }

  async #submit(submission: Submission): Promise<Job> {
    const exchange = submission.exchange(this.#stop.signal, this.#id, () => {
      if (this.#isCancelled) throw JobError.local(this.#id, "cancelled", "the job was cancelled");
    });
    const job = this.#parsed(await this.#connection.text(submission.path, exchange));
    this.#serverId = job.job_id;
    this.#listener.onAccepted();
    if (this.#isCancelled) void this.#sendCancel(job.job_id);
    return job;
  }

  /** The job once it has ended. */
  async #end(job: Job): Promise<Job> {
    if (ENDS.has(job.status)) return job;
    const patience = this.#connection.patience();
    for (;;) {
      const stream = new AbortController();
      const stopListening = onAbort(this.#stop.signal, () => stream.abort());
      try {
        const exchange = { headers: { accept: "text/event-stream" }, signal: stream.signal, jobId: this.#id };
        const response = await this.#connection.send(`${this.#path(job)}/events`, exchange);
        for await (const data of dataOf(response, () => stream.abort())) {
          const news = this.#parsed(data);
          if (ENDS.has(news.status)) return news;
          patience.reset();
          if (news.status === "processing") this.#listener.onProgress(this.#progressOf(news));
        }
      } catch (error) {
        if (error instanceof JobError || this.#stop.signal.aborted) throw error;
      } finally {
        stopListening();
        stream.abort();
      }
      await patience.wait(this.#connection.lost("its events end before the job does"), this.#stop.signal);
    }
  }

  async #result(job: Job, destination: Destination): Promise<Result> {
    const place = await this.#place(job, destination);
    const shared = Object.entries(job).filter(([name, value]) => name in SHARED && value !== undefined);
    return {
      type: "result",
      job_id: this.#id,
      status: "completed",
      processing_time: 0,
      timings: {},
      attempt: 1,
      warnings: [],
      ...place,
      ...(Object.fromEntries(shared) as Partial<Pick<Job & Result, Shared>>),
    };
  }

  async #place(job: Job, destination: Destination): Promise<Partial<Result>> {
    if (job.result_url === undefined || !destination.isThere) return {};
    const pieces = this.#download(job);
    if (!destination.isBase64) return { output_path: await destination.write(job, pieces) };
    return { output_base64: Buffer.concat(await Readable.from(pieces).toArray()).toString("base64") };
  }

  /** All bytes of the result. If a connection ends, the next one continues at that byte. */
  async *#download(job: Job): AsyncGenerator<Uint8Array, void, void> {
    const patience = this.#connection.patience();
    const { signal } = this.#stop;
    const total = job.file_size_bytes;
    let at = 0;
    let etag = "";
    for (;;) {
      const headers: Record<string, string> = at === 0 ? {} : { range: `bytes=${at}-`, "if-range": etag };
      const response = await this.#connection.send(`/api/results/${job.job_id}`, { headers, signal, jobId: this.#id });
      if (at > 0 && response.status !== 206) {
        throw JobError.local(this.#id, "internal", "the server changed the result while it was read");
      }
      etag = response.headers.get("etag") ?? "";
      let failure: unknown = "it ended in the middle of a picture";
      const chunks = (response.body ?? Readable.from([]))[Symbol.asyncIterator]();
      for (;;) {
        const next = await chunks.next().catch((error: unknown) => void (failure = error));
        if (next === undefined || next.done) break;
        at += (next.value as Uint8Array).length;
        patience.reset();
        yield next.value as Uint8Array;
      }
      if (total === undefined || at >= total) return;
      await patience.wait(this.#connection.lost(failure), signal);
    }
  }

  async #sendCancel(id: string): Promise<void> {
    const exchange = { method: "POST", signal: this.#stop.signal, jobId: this.#id };
    // The job's events say how it ended. Without an answer, the call ends after its grace.
    await this.#connection.text(`/api/jobs/${id}/cancel`, exchange).catch(() => {});
  }

  /** Throws `JobError` if the text is no job. */
  #parsed(text: string): Job {
    try {
      const job = parsed<Job | undefined>(text);
      if (typeof job?.job_id === "string") return job;
    } catch {
      // A proxy's page.
    }
    throw JobError.local(this.#id, "internal", "the server answered with no job");
  }

  #path({ job_id }: Job): string {
    return `/api/jobs/${job_id}`;
  }

  #progressOf({ progress, stage, eta_s, attempt }: Job): Progress {
    return {
      type: "progress",
      job_id: this.#id,
      progress: progress ?? 0,
      stage: stage ?? "",
      ...(eta_s !== undefined && { eta_s }),
      ...(attempt !== undefined && { attempt }),
    };
  }

  #errorOf({ error, code, retryable, attempt, status }: Job): JobError {
    return new JobError(this.#id, {
      type: "error",
      job_id: this.#id,
      error: error ?? `the job ${status}`,
      code: (code ?? status) as ErrorCode,
      retryable: retryable ?? false,
      ...(attempt !== undefined && { attempt }),
    });
  }
}
