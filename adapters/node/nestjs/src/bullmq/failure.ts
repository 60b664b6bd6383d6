/**
 * How a job's failure is kept in Redis: as `code: sentence` in BullMQ's `failedReason`. That is written
 * under the job's lock, together with the failure itself, so no attempt that lost the job can alter it.
 *
 * If the error is not as retryable as its code, the sentence ends with ` (retryable)` or ` (not retryable)`.
 * The machines of `upscaled work` write the same.
 */

import type { Job } from "bullmq";
import { ERROR_CODES, JobError } from "upscaled";
import type { DaemonGoneError, ErrorCode } from "upscaled";

export interface JobFailure {
  readonly code: ErrorCode | (string & {});
  /** For people; may hold paths of the machine. */
  readonly error: string;
  /** Whether the same job may succeed later. */
  readonly retryable: boolean;
}

// BullMQ's sentence for a job whose processes exited or hung too often.
const STALLED_TOO_OFTEN = /^job stalled/;

const RETRYABLE = " (retryable)";
const NOT_RETRYABLE = " (not retryable)";

/** The text of `failedReason`. A daemon that went away is a crash of the job's worker, seen from here. */
export function failedReason(error: JobError | DaemonGoneError): string {
  const code = error instanceof JobError ? (error.code ?? "internal") : "worker_crashed";
  const mark = error.retryable === isCodeRetryable(code) ? "" : error.retryable ? RETRYABLE : NOT_RETRYABLE;
  return `${code}: ${error.message}${mark}`;
}

/** Why a job failed for good; undefined if it did not. The code is `internal` if the error is not the daemon's. */
export function failureOf({ failedReason: reason }: Pick<Job, "failedReason">): JobFailure | undefined {
  if (!reason) return undefined;
  const [, known, text] = /^([a-z_]+): (.*)$/s.exec(reason) ?? [];
  const code = known ?? (STALLED_TOO_OFTEN.test(reason) ? "worker_crashed" : "internal");
  const error = text ?? reason;
  for (const mark of [RETRYABLE, NOT_RETRYABLE]) {
    if (error.endsWith(mark)) return { code, error: error.slice(0, -mark.length), retryable: mark === RETRYABLE };
  }
  return { code, error, retryable: isCodeRetryable(code) };
}

/** Whether errors of the code are retryable as a rule; false if the code is unknown. */
function isCodeRetryable(code: string): boolean {
  return code in ERROR_CODES && ERROR_CODES[code as ErrorCode].retryable;
}
