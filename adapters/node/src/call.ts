/** One call of `upscale`: its job's line, the caller's signal, its deadline, and its one end. */

import { clearTimeout, setTimeout } from "node:timers";

import { onAbort } from "./aborts.js";
import { DaemonGoneError, JobError } from "./errors.js";
import type { CallSite } from "./errors.js";
import type { JobLine } from "./jobline.js";
import type { CallOptions } from "./options.js";
import type { Progress, Result } from "./protocol.js";

// Refusals after which a job that is still wanted waits in the client.
const WOULD_WAIT = new Set<string | undefined>(["queue_full", "shutting_down"]);

export interface CallListener {
  /** The caller's signal aborted, or the job's time is over: the daemon is to end the job. */
  onEnding(call: Call, error: JobError): void;
  /** The last call of all. */
  onSettled(call: Call): void;
}

export class Call {
  readonly id: string;
  /** What to write, until a daemon has accepted the job. */
  line: string;
  readonly onProgress: ((progress: Progress) => void) | undefined;
  /** Resolved or rejected with the call's end. */
  readonly outcome: Promise<Result>;
  /** Daemons that went away before they accepted the job. */
  losses = 0;
  readonly #site: CallSite;
  readonly #listener: CallListener;
  readonly #signal: AbortSignal | undefined;
  readonly #timeoutMs: number | undefined;
  readonly #stopListening: () => void;
  #resolve!: (result: Result) => void;
  #reject!: (error: Error) => void;
  #isAccepted = false;
  #isSettled = false;
  // What the call ends with if the daemon does not end it.
  #ending: JobError | undefined;
  // The deadline's; once the call is ending, the grace's.
  #timer: NodeJS.Timeout | undefined;

  constructor({ id, line, timeoutMs }: JobLine, { signal, onProgress }: CallOptions, site: CallSite, listener: CallListener) {
    this.id = id;
    this.line = line;
    this.onProgress = onProgress;
    this.#site = site;
    this.#signal = signal;
    this.#timeoutMs = timeoutMs;
    this.#listener = listener;
    this.outcome = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#stopListening = signal === undefined ? () => {} : onAbort(signal, () => this.#end(cancelled(id, signal)));
    this.#startDeadline();
  }

  get isAccepted(): boolean {
    return this.#isAccepted;
  }

  get isEnding(): boolean {
    return this.#ending !== undefined;
  }

  /** A daemon has the job. Its time counts from now; before that, it bounded the wait for this. */
  accept(): void {
    if (this.#isAccepted) return;
    this.#isAccepted = true;
    this.line = "";
    if (!this.isEnding) this.#startDeadline();
  }

  /** Settles the call with this error if the daemon has not ended the job by then. */
  settleWithin(graceMs: number, { details, cause }: JobError): void {
    const sentence = `${details.error}; the daemon did not confirm within ${graceMs / 1000} s that the job has ended`;
    const error = new JobError(this.id, { ...details, error: sentence }, { cause });
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.settle(error), graceMs);
  }

  settle(outcome: Result | Error): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    clearTimeout(this.#timer);
    this.#stopListening();
    if (outcome instanceof Error) this.#reject(this.#asRejected(outcome));
    else this.#resolve(outcome);
    this.#listener.onSettled(this);
  }

  #startDeadline(): void {
    if (this.#timeoutMs === undefined) return;
    clearTimeout(this.#timer);
    const error = `timeout_s is over: ${this.#timeoutMs / 1000} s`;
    this.#timer = setTimeout(
      () => this.#end(JobError.local(this.id, "deadline_exceeded", error)),
      this.#timeoutMs,
    );
  }

  #end(error: JobError): void {
    if (this.isEnding || this.#isSettled) return;
    this.#ending = error;
    this.#listener.onEnding(this, error);
  }

  /** The error as the caller gets it. */
  #asRejected(error: Error): Error {
    if (error instanceof DaemonGoneError) return error.ofCall(this.#site);
    return error instanceof JobError ? this.#site.mark(this.#endOf(error)) : error;
  }

  #endOf(error: JobError): JobError {
    // The time was over, so this client sent the cancel that the daemon reports.
    if (error.code === "cancelled" && this.#ending?.code === "deadline_exceeded") return this.#ending;
    // The daemon had no room for the job. Without its end it would have been sent again.
    if (WOULD_WAIT.has(error.code) && !this.#isAccepted) return this.#ending ?? error;
    if (this.#signal?.aborted) error.cause ??= this.#signal.reason;
    return error;
  }
}

export function cancelled(id: string, signal: AbortSignal): JobError {
  return JobError.local(id, "cancelled", "the job was cancelled", { cause: signal.reason });
}
