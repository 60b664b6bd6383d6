/** A processor for each method's queue, and what is done when the queue says that a job has ended or is to end. */

import { rm } from "node:fs/promises";
import { join } from "node:path";

import { OnQueueEvent, Processor, QueueEventsHost, QueueEventsListener } from "@nestjs/bullmq";
import { Inject, Injectable, Logger } from "@nestjs/common";
import { UpscaledService } from "upscaled-nestjs";
import { logOnceAMinute, UpscaleProcessor } from "upscaled-nestjs/bullmq";

import { CANCEL, queueOf } from "./methods.js";
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

// From the first event that the queue remembers, so that jobs that ended while no process listened are handled too.
const ALL = { lastEventId: "0" };

/** What the queue says of its jobs to every process of the API. */
@Injectable()
abstract class JobEvents extends QueueEventsHost {
  readonly #logger = new Logger(this.constructor.name);

  constructor(
    private readonly settings: Settings,
    private readonly processor: UpscaleProcessor,
  ) {
    super();
  }

  @OnQueueEvent("completed")
  onCompleted({ jobId }: { jobId: string }): Promise<void> {
    return this.#removeUpload(jobId);
  }

  /** BullMQ says this to its queue only when no attempt is left. */
  @OnQueueEvent("failed")
  onFailed({ jobId }: { jobId: string }): Promise<void> {
    return this.#removeUpload(jobId);
  }

  /** An event of our own. The process that runs the job ends it. */
  @OnQueueEvent(CANCEL as never)
  onCancel({ jobId }: { jobId: string }): void {
    this.processor.worker.cancelJob(jobId, "the job was cancelled by DELETE");
  }

  @OnQueueEvent("error")
  onError(error: Error): void {
    logOnceAMinute(this.#logger, error.message);
  }

  /**
   * Called when the queue reports the job's end, not when its result is there: a retry needs the upload, and so does a
   * job whose process exited after the result and before BullMQ knew of it.
   */
  #removeUpload(jobId: string): Promise<void> {
    return rm(join(this.settings.uploadDir, jobId), { force: true });
  }
}

@QueueEventsListener(queueOf("flux"), ALL)
export class FluxEvents extends JobEvents {
  constructor(@Inject(Settings) settings: Settings, @Inject(FluxProcessor) processor: FluxProcessor) {
    super(settings, processor);
  }
}

@QueueEventsListener(queueOf("esrgan"), ALL)
export class EsrganEvents extends JobEvents {
  constructor(@Inject(Settings) settings: Settings, @Inject(EsrganProcessor) processor: EsrganProcessor) {
    super(settings, processor);
  }
}

@QueueEventsListener(queueOf("imagen"), ALL)
export class ImagenEvents extends JobEvents {
  constructor(@Inject(Settings) settings: Settings, @Inject(ImagenProcessor) processor: ImagenProcessor) {
    super(settings, processor);
  }
}
