/**
 * How a job's failure is kept in Redis: as `code: sentence` in BullMQ's `failedReason`. That is written
 * under the job's lock, together with the failure itself, so no attempt that lost the job can alter it.
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

/** The sentence for `failedReason`. A daemon that went away is a crash of the job's worker, seen from here. */
export function failedReason(error: JobError | DaemonGoneError): string {
  const code = error instanceof JobError ? (error.code ?? "internal") : "worker_crashed";
  return `${code}: ${error.message}`;
}

/** Why a job failed for good; undefined if it did not. The code is `internal` if the error is not the daemon's. */
export function failureOf({ failedReason: reason }: Pick<Job, "failedReason">): JobFailure | undefined {
  if (!reason) return undefined;
  const [, known, sentence] = /^([a-z_]+): (.*)$/s.exec(reason) ?? [];
  const code = known ?? (STALLED_TOO_OFTEN.test(reason) ? "worker_crashed" : "internal");
  const retryable = code in ERROR_CODES && ERROR_CODES[code as ErrorCode].retryable;
  return { code, error: sentence ?? reason, retryable };
}
