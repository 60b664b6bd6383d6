/** Jobs of the API: given to their method's queue, listed, looked up and cancelled by id. */

import { rm } from "node:fs/promises";
import { join, parse } from "node:path";

import { InjectQueue } from "@nestjs/bullmq";
import { ConflictException, Inject, Injectable, Logger, NotFoundException } from "@nestjs/common";
import { QueueEventsProducer } from "bullmq";
import type { Job, JobsOptions, Queue } from "bullmq";
import type { JobRequest, Result } from "upscaled";
import { failureOf, logErrorsOf } from "upscaled-nestjs/bullmq";
import type { JobProgress } from "upscaled-nestjs/bullmq";

import { STATES } from "./answers.dto.js";
import type { CancelledDto, FailureDto, ResultDto, State, StatusDto } from "./answers.dto.js";
import { CANCEL, METHODS, queueOf } from "./methods.js";
import type { Method } from "./methods.js";
import { Settings } from "./settings.js";
import type { EsrganDto, FluxDto, ImagenDto } from "./upscale.dto.js";

const A_DAY = { age: 24 * 60 * 60 };

const JOB_OPTIONS: JobsOptions = {
  attempts: 3,
  backoff: { type: "exponential", delay: 1000, jitter: 0.5 },
  removeOnComplete: A_DAY,
  removeOnFail: A_DAY,
};

interface FoundJob {
  readonly method: Method;
  readonly queue: Queue;
  readonly job: Job<JobRequest, Result>;
  readonly state: string;
}

@Injectable()
export class JobsService {
  readonly #queues: Record<Method, Queue>;

  constructor(
    @Inject(Settings) private readonly settings: Settings,
    @InjectQueue(queueOf("flux")) flux: Queue,
    @InjectQueue(queueOf("esrgan")) esrgan: Queue,
    @InjectQueue(queueOf("imagen")) imagen: Queue,
  ) {
    this.#queues = { flux, esrgan, imagen };
    for (const queue of Object.values(this.#queues)) logErrorsOf(queue, new Logger(JobsService.name));
  }

  /** Queues an upload, and gives the job's id. An upload that gets no job is removed. */
  async enqueue(method: Method, upload: Express.Multer.File, dto: EsrganDto | FluxDto | ImagenDto): Promise<string> {
    const { image: _, output_format = "png", ...options } = dto;
    const jobId = upload.filename;
    const config = {
      ...options,
      output_format,
      image_path: upload.path,
      output_path: join(this.settings.outputDir, `${jobId}.${output_format}`),
    };
    const request = { method, config } as JobRequest;
    try {
      await this.#queues[method].add(method, request, { ...JOB_OPTIONS, jobId });
    } catch (error) {
      await rm(upload.path, { force: true });
      throw error;
    }
    return jobId;
  }

  /** How a job is. Throws `NotFoundException`. */
  async status(jobId: string): Promise<StatusDto> {
    return statusOf(await this.#find(jobId));
  }

  /** The newest jobs of all methods, in that state or in any. */
  async list(state: State | undefined, limit: number): Promise<StatusDto[]> {
    const states = state === undefined ? [...STATES] : [state];
    const ofMethod = async (method: Method): Promise<StatusDto[]> => {
      const queue = this.#queues[method];
      const lists = states.map(async (one): Promise<StatusDto[]> => {
        const jobs: Job<JobRequest, Result>[] = await queue.getJobs([one], 0, limit - 1);
        // A job may be removed meanwhile.
        return jobs.filter(Boolean).map((job) => statusOf({ method, queue, job, state: one }));
      });
      return (await Promise.all(lists)).flat();
    };
    const all = (await Promise.all(METHODS.map(ofMethod))).flat();
    // A job that changes its state between two looks is seen twice.
    const newest = new Map(all.map((status) => [status.job_id, status]));
    return [...newest.values()].sort((a, b) => b.created_at.localeCompare(a.created_at)).slice(0, limit);
  }

  /** Removes a job that waits; has one that runs cancelled. Throws `NotFoundException` and `ConflictException`. */
  async cancel(jobId: string): Promise<CancelledDto> {
    const { method, queue, job, state } = await this.#find(jobId);
    if (state === "completed" || state === "failed") throw new ConflictException(`job ${jobId} has ended: ${state}`);
    if (state !== "active" && (await isRemoved(job))) {
      await rm(join(this.settings.uploadDir, jobId), { force: true });
      return { job_id: jobId, method, state: "cancelled" };
    }
    const events = new QueueEventsProducer(queue.name, { connection: this.settings.redis });
    await events.publishEvent({ eventName: CANCEL, jobId });
    await events.close();
    return { job_id: jobId, method, state: "cancelling" };
  }

  async #find(jobId: string): Promise<FoundJob> {
    for (const method of METHODS) {
      const queue = this.#queues[method];
      // The state first: what a job ended with is there when its state says so.
      const state = await queue.getJobState(jobId);
      const job: Job<JobRequest, Result> | undefined = await queue.getJob(jobId);
      if (job !== undefined) return { method, queue, job, state };
    }
    throw new NotFoundException(`there is no job ${jobId}`);
  }
}

/** False if the job has been taken meanwhile: then it is locked. */
async function isRemoved(job: Job): Promise<boolean> {
  return job.remove().then(
    () => true,
    () => false,
  );
}

function statusOf({ method, job, state }: FoundJob): StatusDto {
  const created_at = new Date(job.timestamp).toISOString();
  return { job_id: job.id ?? "", method, state, created_at, ...describe(job, state) };
}

function describe(job: Job<JobRequest, Result>, state: string): Pick<StatusDto, "progress"> & Partial<StatusDto> {
  const { progress = 0, stage, eta_s } = (typeof job.progress === "object" ? job.progress : {}) as Partial<JobProgress>;
  switch (state) {
    case "completed":
      return { progress: 100, result: resultOf(job.returnvalue) };
    case "failed":
      return { progress, error: errorOf(job) };
    default:
      return { progress, ...(stage !== undefined && { stage }), ...(eta_s !== undefined && { eta_s }) };
  }
}

function resultOf(result: Result): ResultDto {
  const { output_path = "", input_size, output_size, scale_factor, crop_info, processing_time, model, device } = result;
  const sizes = { ...(input_size && { input_size }), ...(output_size && { output_size }) };
  return {
    url: `/api/results/${parse(output_path).base}`,
    ...sizes,
    ...(scale_factor && { scale_factor }),
    ...(crop_info && { crop_info }),
    processing_time,
    ...(model && { model }),
    ...(device && { device }),
    warnings: result.warnings ?? [],
  };
}

/** The code; also the sentence if it is about the request, because other sentences may hold paths of this machine. */
function errorOf(job: Job): FailureDto {
  const { code, retryable, error } = failureOf(job) ?? { code: "internal", retryable: false, error: "" };
  return { code, retryable, ...(code === "invalid_job" && { error }) };
}
