/** Jobs of the API: given to their method's queue, and looked up by id. */

import { rm } from "node:fs/promises";
import { join, parse } from "node:path";

import { getQueueToken } from "@nestjs/bullmq";
import { Inject, Injectable, NotFoundException } from "@nestjs/common";
import { ModuleRef } from "@nestjs/core";
import type { Job, JobsOptions, Queue } from "bullmq";
import type { JobRequest, Result } from "upscaled";
import { failureOf } from "upscaled-nestjs/bullmq";
import type { JobProgress } from "upscaled-nestjs/bullmq";

import type { FailureDto, ResultDto, StatusDto } from "./answers.dto.js";
import { METHODS, queueOf } from "./methods.js";
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

@Injectable()
export class JobsService {
  constructor(
    @Inject(Settings) private readonly settings: Settings,
    @Inject(ModuleRef) private readonly moduleRef: ModuleRef,
  ) {}

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
      await this.#queue(method).add(method, request, { ...JOB_OPTIONS, jobId });
    } catch (error) {
      await rm(upload.path, { force: true });
      throw error;
    }
    return jobId;
  }

  /** How a job is. Throws `NotFoundException`. */
  async status(jobId: string): Promise<StatusDto> {
    for (const method of METHODS) {
      const queue = this.#queue(method);
      // The state first: what a job ended with is there when its state says so.
      const state = await queue.getJobState(jobId);
      const job: Job<JobRequest, Result> | undefined = await queue.getJob(jobId);
      if (job !== undefined) return { job_id: jobId, method, state, ...describe(job, state) };
    }
    throw new NotFoundException(`there is no job ${jobId}`);
  }

  #queue(method: Method): Queue {
    return this.moduleRef.get<Queue>(getQueueToken(queueOf(method)), { strict: false });
  }
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

/** The code; the sentence too where it is about the request, for others may hold paths of this machine. */
function errorOf(job: Job): FailureDto {
  const { code, retryable, error } = failureOf(job) ?? { code: "internal", retryable: false, error: "" };
  return { code, retryable, ...(code === "invalid_job" && { error }) };
}
