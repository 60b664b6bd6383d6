/** A processor for each method's queue, and what is done when a job has ended for good. */

import { rm } from "node:fs/promises";
import { join } from "node:path";

import { OnQueueEvent, Processor, QueueEventsHost, QueueEventsListener } from "@nestjs/bullmq";
import { Inject, Injectable } from "@nestjs/common";
import { UpscaledService } from "upscaled-nestjs";
import { UpscaleProcessor } from "upscaled-nestjs/bullmq";

import { queueOf } from "./methods.js";
import { Settings } from "./settings.js";

/** One at a time, as BullMQ's default has it: a FLUX job fills a GPU. */
@Processor(queueOf("flux"))
export class FluxProcessor extends UpscaleProcessor {}

@Injectable()
abstract class ConcurrentProcessor extends UpscaleProcessor {
  constructor(
    @Inject(UpscaledService) upscaled: UpscaledService,
    @Inject(Settings) private readonly settings: Settings,
  ) {
    super(upscaled);
  }

  override async onApplicationBootstrap(): Promise<void> {
    await super.onApplicationBootstrap();
    this.worker.concurrency = this.settings.maxConcurrentJobs;
  }
}

@Processor(queueOf("esrgan"))
export class EsrganProcessor extends ConcurrentProcessor {}

@Processor(queueOf("imagen"))
export class ImagenProcessor extends ConcurrentProcessor {}

// From the first event that the queue remembers: so the jobs are caught up on that ended while nobody listened.
const ALL = { lastEventId: "0" };

/**
 * Removes the uploads of jobs that ended for good. A retry needs its upload, and so does a job that comes
 * back after its process died between the result and BullMQ's knowing of it: only the queue tells when.
 */
@Injectable()
abstract class UploadRemover extends QueueEventsHost {
  constructor(@Inject(Settings) private readonly settings: Settings) {
    super();
  }

  @OnQueueEvent("completed")
  onCompleted({ jobId }: { jobId: string }): Promise<void> {
    return this.#remove(jobId);
  }

  /** BullMQ says this to its queue only when no attempt is left. */
  @OnQueueEvent("failed")
  onFailed({ jobId }: { jobId: string }): Promise<void> {
    return this.#remove(jobId);
  }

  #remove(jobId: string): Promise<void> {
    return rm(join(this.settings.uploadDir, jobId), { force: true });
  }
}

@QueueEventsListener(queueOf("flux"), ALL)
export class FluxUploadRemover extends UploadRemover {}

@QueueEventsListener(queueOf("esrgan"), ALL)
export class EsrganUploadRemover extends UploadRemover {}

@QueueEventsListener(queueOf("imagen"), ALL)
export class ImagenUploadRemover extends UploadRemover {}
