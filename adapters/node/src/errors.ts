import type { ErrorCode, ErrorMessage } from "./protocol.js";
import { ERROR_CODES } from "./protocol.js";

/**
 * The place of a call. The error that ends it is created later, in a stack without the caller's frames. The frames
 * become text only if an error needs them.
 */
export class CallSite {
  readonly stack?: string;

  /** The frames from the caller of this function on. */
  constructor(called: (...args: never[]) => unknown) {
    Error.captureStackTrace(this, called);
  }

  /** Gives an error these frames. */
  mark<E extends Error>(error: E): E {
    const { stack = "" } = this;
    const frames = stack.includes("\n") ? stack.slice(stack.indexOf("\n")) : "";
    Object.defineProperty(error, "stack", {
      value: `${error.name}: ${error.message}${frames}`,
      configurable: true,
      writable: true,
    });
    return error;
  }
}

/**
 * Thrown when a job ends without a result. `code` says why, for programs; `message` is for people.
 * A later daemon may have codes that are not in `ERROR_CODES`: go by `retryable` then.
 */
export class JobError extends Error {
  override readonly name = "JobError";
  readonly jobId: string;
  readonly code: ErrorCode | (string & {}) | undefined;
  /** Whether the same job may succeed later. */
  readonly retryable: boolean;
  /** The daemon's message: `cause`, `attempt` and `traceback` are there. */
  readonly details: Readonly<Partial<ErrorMessage>>;

  constructor(jobId: string, details: Partial<ErrorMessage>, options?: ErrorOptions) {
    super(details.error ?? "the job failed", options);
    this.jobId = jobId;
    this.code = details.code;
    this.retryable = details.retryable ?? false;
    this.details = details;
  }

  /** The error of a job that never reached the daemon. */
  static local(jobId: string, code: ErrorCode, error: string, options?: ErrorOptions): JobError {
    return new JobError(jobId, { code, error, retryable: ERROR_CODES[code].retryable }, options);
  }
}

/**
 * Thrown when the daemon went away after it had accepted the job, or cannot be started. The job may have
 * run or not. `message` has the end of the daemon's log.
 */
export class DaemonGoneError extends Error {
  override readonly name = "DaemonGoneError";
  /** The exit status; null if a signal ended the daemon, or if it never ran. */
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The same job may succeed on another daemon. */
  readonly retryable = true;

  constructor(
    message: string,
    how: { status?: number | null; signal?: NodeJS.Signals | null } = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.status = how.status ?? null;
    this.signal = how.signal ?? null;
  }

  /** A copy for one of the calls that the daemon's end has ended. */
  ofCall(site: CallSite): DaemonGoneError {
    return site.mark(new DaemonGoneError(this.message, this, "cause" in this ? { cause: this.cause } : undefined));
  }
}

/** Thrown when the daemon does not answer a question in time. It may be busy, stopped or stuck. */
export class NoAnswerError extends Error {
  override readonly name = "NoAnswerError";
}
