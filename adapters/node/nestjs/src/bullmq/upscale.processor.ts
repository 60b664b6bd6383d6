/**
 * A BullMQ processor whose jobs run on the application's daemon.
 *
 *     @Processor("esrgan")
 *     class EsrganProcessor extends UpscaleProcessor {}
 *
 *     await queue.add("poster", { method: "esrgan", config: { … } }, { attempts: 3, backoff: … });
 */

import { createHash } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";

import { OnWorkerEvent, WorkerHost } from "@nestjs/bullmq";
import { Inject, Logger } from "@nestjs/common";
import type { BeforeApplicationShutdown, OnApplicationBootstrap, OnApplicationShutdown } from "@nestjs/common";
import { UnrecoverableError, WaitingError } from "bullmq";
import type { Job } from "bullmq";
import { DaemonGoneError, JobError } from "upscaled";
import type { JobRequest, Result } from "upscaled";

import { UpscaledService } from "../upscaled.service.js";
import { evictionProblem } from "./eviction.js";
import { failedReason } from "./failure.js";
import { ProgressReporter } from "./progress.reporter.js";
import { logOnceAMinute } from "./repeated.errors.js";
import { defaultWorkerOptions } from "./worker.options.js";

// The protocol's limit of an id.
const LONGEST_ID = 128;

// For Redis to say how it is set, before the application starts without knowing.
const REDIS_WAIT_MS = 3000;

interface Attempt {
  readonly abort: AbortController;
  readonly outcome: Promise<Result>;
}

export abstract class UpscaleProcessor
  extends WorkerHost
  implements OnApplicationBootstrap, BeforeApplicationShutdown, OnApplicationShutdown
{
  readonly #logger = new Logger(this.constructor.name);
  // The attempts that run here, by BullMQ's job id.
  readonly #attempts = new Map<string, Attempt>();
  // Asked once, before the first job.
  #evictionProblem: Promise<string | undefined> | undefined;
  // A signal may end the application while it starts, before there is a worker.
  #hasWorker = false;
  #closed: Promise<void> | undefined;

  constructor(@Inject(UpscaledService) protected readonly upscaled: UpscaledService) {
    super();
    // Before the worker is made, which looks for stalled jobs as soon as it is there.
    defaultWorkerOptions(this.constructor);
  }

  /** What the daemon is asked for: the job's data, unless overridden. */
  protected request(job: Job): JobRequest {
    return job.data as JobRequest;
  }

  /**
   * Run one attempt. It returns the result; throws `UnrecoverableError` if no retry would help; throws an
   * error that BullMQ retries; or gives the job back to the queue without charging it, if this process can run no jobs.
   *
   * BullMQ gives a signal only to functions that declare three parameters: an override must declare them too.
   */
  override async process(job: Job, token?: string, signal?: AbortSignal): Promise<Result> {
    const problem = await this.#checkEviction();
    if (problem !== undefined) throw await this.#giveBack(job, token, problem);
    const id = job.id ?? "";
    // BullMQ delivers a job again if its lock ran out, as while the event loop was blocked. This process may still run it.
    this.#abort(id, "the job was delivered again");
    const abort = new AbortController();
    const signals = signal === undefined ? [abort.signal] : [abort.signal, signal];
    const attempt: Attempt = { abort, outcome: this.#run(job, token, AbortSignal.any(signals)) };
    this.#attempts.set(id, attempt);
    await attempt.outcome.catch(() => {});
    // An earlier attempt ends together with the newest one. If it ended first, BullMQ would stop renewing the newest
    // attempt's lock, because it knows only the job's id. Redis refuses its outcome, because its own lock is gone.
    const newest = this.#attempts.get(id) ?? attempt;
    if (newest === attempt) this.#attempts.delete(id);
    return newest.outcome;
  }

  /** The locks ran out, so other processes have these jobs, or will. Do not compute them twice. */
  @OnWorkerEvent("lockRenewalFailed")
  onLockRenewalFailed(ids: string[]): void {
    for (const id of ids) this.#abort(id, "the job's lock ran out");
  }

  /** Of the worker's connections to Redis, as a rule: they all say the same, at each try. */
  @OnWorkerEvent("error")
  onError(error: Error): void {
    logOnceAMinute(this.#logger, error.message);
  }

  @OnWorkerEvent("failed")
  onFailed(job: Job | undefined, error: Error): void {
    // BullMQ says this of jobs that it has removed meanwhile too.
    if (job === undefined) return;
    const { id, attemptsMade, opts } = job;
    const isLast = error instanceof UnrecoverableError || attemptsMade >= (opts.attempts ?? 1);
    const sentence = `job ${id} failed at attempt ${attemptsMade} of ${opts.attempts ?? 1}: ${error.message}`;
    isLast ? this.#logger.error(sentence) : this.#logger.warn(`${sentence}; it is tried again`);
  }

  /**
   * Throws, and so ends the application's start, if Redis would lose jobs. A Redis that is away is asked when it
   * comes. An override has to call this.
   */
  async onApplicationBootstrap(): Promise<void> {
    this.#hasWorker = true;
    const timer = new AbortController();
    const late = delay(REDIS_WAIT_MS, undefined, { signal: timer.signal }).catch(() => undefined);
    const problem = await Promise.race([this.#checkEviction(), late]);
    timer.abort();
    if (problem === undefined) return;
    // Nest closes nothing of an application that did not start. A job that has come already is given back.
    await this.worker.close();
    throw new Error(problem);
  }

  /** Take no more jobs. */
  beforeApplicationShutdown(): void {
    if (this.#hasWorker) this.#closed = this.worker.close();
  }

  /** BullMQ waits for running jobs as long as they take; so the daemon, which does not, is closed first. */
  async onApplicationShutdown(): Promise<void> {
    await this.upscaled.close();
    await this.#closed;
  }

  #abort(id: string, reason: string): void {
    this.#attempts.get(id)?.abort.abort(new Error(reason));
  }

  async #run(job: Job, token: string | undefined, signal: AbortSignal): Promise<Result> {
    const progress = new ProgressReporter(job);
    try {
      const request = requestFor(attemptId(job), this.request(job));
      return await this.upscaled.upscale(request, { signal, onProgress: (news) => progress.report(news) });
    } catch (error) {
      throw await this.#verdict(error, job, token);
    } finally {
      await progress.end();
    }
  }

  /** The error for BullMQ after an attempt that failed. */
  async #verdict(error: unknown, job: Job, token: string | undefined): Promise<Error> {
    // From an override of ours, and for BullMQ.
    if (!(error instanceof JobError || error instanceof DaemonGoneError)) return error as Error;
    if (hasWrongOptions(error)) {
      if (!this.upscaled.isServer) return this.#giveBack(job, token, error.message);
    } else if (!error.retryable) {
      return new UnrecoverableError(failedReason(error));
    }
    if (this.upscaled.isOpen) return new Error(failedReason(error), { cause: error });
    // Without a daemon this process would fail all jobs of the queue, one after the other.
    return this.#giveBack(job, token, "no daemon runs here any more");
  }

  #checkEviction(): Promise<string | undefined> {
    this.#evictionProblem ??= evictionProblem(this.worker).catch((error: Error) => {
      // Redis went away meanwhile: ask again at the next job.
      this.#evictionProblem = undefined;
      this.#logger.warn(error.message);
      return undefined;
    });
    return this.#evictionProblem;
  }

  /** Leave this job and all others to other processes. Resolves with the error for BullMQ. */
  async #giveBack(job: Job, token: string | undefined, reason: string): Promise<Error> {
    // Pause first, else this process would take the job again.
    await this.worker.pause(true);
    await job.moveToWait(token);
    this.#logger.error(`${reason}; job ${job.id} is left to other processes`);
    return new WaitingError();
  }
}

/**
 * Whether the workers' options are wrong here: no retry helps here, but other processes, or the server after its next
 * start, have other options.
 */
function hasWrongOptions(error: JobError | DaemonGoneError): boolean {
  return error instanceof JobError && error.code === "worker_crashed" && !error.retryable;
}

/** The request under that id. Throws `JobError` if it is none. */
function requestFor(job_id: string, request: unknown): JobRequest {
  if (typeof request !== "object" || request === null || Array.isArray(request)) {
    const sentence = "the job's data must be an object with a method and a config";
    throw JobError.local(job_id, "invalid_job", sentence);
  }
  try {
    return { ...(request as JobRequest), job_id };
  } catch (error) {
    throw JobError.local(job_id, "invalid_job", "the job's request cannot be read", { cause: error });
  }
}

/**
 * Unique per delivery, for `attemptsStarted` counts the deliveries after a stall too: a daemon that still has
 * an earlier attempt does not take the new one for a duplicate. BullMQ's own ids may be longer than the
 * protocol's, and hold half a surrogate pair.
 */
function attemptId({ queueName, id, attemptsStarted }: Job): string {
  const name = `${queueName}/${id}`.toWellFormed();
  const whole = `${name}/${attemptsStarted}`;
  if ([...whole].length <= LONGEST_ID) return whole;
  return `${createHash("sha256").update(name).digest("hex")}/${attemptsStarted}`;
}
