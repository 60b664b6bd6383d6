import type { Job } from "bullmq";
import type { Progress } from "upscaled";

/** What `job.progress` holds. */
export type JobProgress = Omit<Progress, "type" | "job_id" | "budget_s">;

/**
 * Writes a job's progress to Redis: one write at a time, and of what comes meanwhile only the newest.
 * A write that fails is skipped, because the next one, or the end of the job, follows.
 */
export class ProgressReporter {
  readonly #job: Job;
  #newest: JobProgress | undefined;
  #writing: Promise<void> | undefined;

  constructor(job: Job) {
    this.#job = job;
  }

  report({ type: _type, job_id: _id, budget_s: _budget, ...progress }: Progress): void {
    this.#newest = progress;
    this.#writing ??= this.#write();
  }

  /** Nothing is written after this: a job's end is its last event. */
  async end(): Promise<void> {
    this.#newest = undefined;
    await this.#writing;
  }

  async #write(): Promise<void> {
    while (this.#newest !== undefined) {
      const progress = this.#newest;
      this.#newest = undefined;
      await this.#job.updateProgress(progress).catch(() => {});
    }
    this.#writing = undefined;
  }
}
