/** What a caller may ask for: of the client, of one job, of one question. */

import { JobError } from "./errors.js";
import type { Progress } from "./protocol.js";
import type { JobInput, JobOutput } from "./transfer.js";

export interface RestartPolicy {
  /** Starts in a row that may fail, and daemons that may go away without accepting a job, until it is given up. */
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
  /** The time for jobs in flight when the client is closed. Default: 30 s; `Infinity`: as long as they take. */
  readonly closeTimeoutMs?: number;
  /**
   * The time in which the daemon must end a job after an abort or its `timeout_s`. After that the call ends without it.
   * Default: 25 s. Above the daemon's own `--cancel-grace-s`, which is 20 s.
   */
  readonly cancelGraceMs?: number;
  /** The longest line that the daemon takes: its `--line-limit-bytes`. Default: 32 MiB. */
  readonly lineLimitBytes?: number;
  /**
   * The folder of a call's `input` and `output` while it runs. Default: the system's folder for temporary files. A daemon
   * with `--allow-root` needs one of its roots here.
   */
  readonly tempDir?: string;
}

export interface CallOptions {
  /**
   * Cancels the job. The call ends when the daemon has ended the job, usually with `cancelled`; at the
   * latest after `cancelGraceMs`.
   */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
  /** The picture, instead of `image_path` and the like. A stream is read before the job is sent. */
  readonly input?: JobInput;
  /** The destination of the picture, instead of `output_path`; its format is `output_format`. */
  readonly output?: JobOutput;
}

export interface AskOptions {
  /** Ends the question, which rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Rejects with `NoAnswerError` after this time. Default: 60 s. */
  readonly timeoutMs?: number;
}

// The longest delay of a timer.
const LONGEST_DELAY_MS = 2 ** 31 - 1;

interface Times {
  readonly closeTimeoutMs?: number;
  readonly cancelGraceMs?: number;
}

/** The client's options, with times that a timer can have: a longer one, such as `Infinity`, would be over at once. */
export function boundedTimes<O extends Times>(options: O): O {
  const { closeTimeoutMs, cancelGraceMs } = options;
  return {
    ...options,
    ...(closeTimeoutMs !== undefined && { closeTimeoutMs: Math.min(closeTimeoutMs, LONGEST_DELAY_MS) }),
    ...(cancelGraceMs !== undefined && { cancelGraceMs: Math.min(cancelGraceMs, LONGEST_DELAY_MS) }),
  };
}

/** The call's options. Throws `JobError` if one is of a wrong type. */
export function checkedCallOptions(id: string, options: CallOptions | undefined): CallOptions {
  const { signal, onProgress } = options ?? {};
  const problem =
    problemOf(signal) ??
    (onProgress && typeof onProgress !== "function" ? "onProgress is no function" : undefined);
  if (problem !== undefined) throw JobError.local(id, "invalid_job", problem);
  return { ...(signal && { signal }), ...(onProgress && { onProgress }) };
}

/** The question's options. Throws `TypeError` if one is of a wrong type. */
export function checkedAskOptions(options: AskOptions | undefined): AskOptions {
  const { signal, timeoutMs } = options ?? {};
  const isTime =
    timeoutMs === undefined || (typeof timeoutMs === "number" && timeoutMs > 0 && timeoutMs <= LONGEST_DELAY_MS);
  const problem =
    problemOf(signal) ??
    (isTime ? undefined : `timeoutMs must be a number above 0, at most ${LONGEST_DELAY_MS}`);
  if (problem !== undefined) throw new TypeError(problem);
  return { ...(signal && { signal }), ...(timeoutMs !== undefined && { timeoutMs }) };
}

/** Of a signal; by what it can do, because there is more than one `AbortSignal` class in some test runners. */
function problemOf(signal: unknown): string | undefined {
  if (signal === undefined || signal === null) return undefined;
  const { aborted, addEventListener } = signal as Partial<AbortSignal>;
  const isSignal = typeof aborted === "boolean" && typeof addEventListener === "function";
  return isSignal ? undefined : "signal is no AbortSignal";
}
