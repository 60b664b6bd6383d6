/**
 * How a job's failure is kept in Redis: as `code: sentence` in BullMQ's `failedReason`. That is written
 * under the job's lock, together with the failure itself, so no attempt that lost the job can alter it.
 */

import type { Job } from "bullmq";
import { ERROR_CODES, JobError } from "upscaled";
import type { ErrorCode } from "upscaled";

export interface JobFailure {
  readonly code: ErrorCode | (string & {});
  /** For people; may hold paths of the machine. */
  readonly error: string;
  /** Whether the same job may succeed later. */
  readonly retryable: boolean;
}

/** The sentence for `failedReason`. A daemon that went away is a crash of the job's worker, seen from here. */
export function failedReason(error: unknown): string {
  const code = error instanceof JobError ? (error.code ?? "internal") : "worker_crashed";
  return `${code}: ${error instanceof Error ? error.message : String(error)}`;
}

/** Why a job failed for good; undefined where it did not. */
export function failureOf({ failedReason: reason }: Pick<Job, "failedReason">): JobFailure | undefined {
  if (!reason) return undefined;
  const [, code, error] = /^([a-z_]+): (.*)$/s.exec(reason) ?? [];
  // BullMQ's own words: the processes that had the job died too often.
  if (code === undefined || error === undefined) return { ...crash, error: reason };
  return { code, error, retryable: code in ERROR_CODES && ERROR_CODES[code as ErrorCode].retryable };
}

const crash = { code: "worker_crashed", retryable: ERROR_CODES.worker_crashed.retryable } as const;
