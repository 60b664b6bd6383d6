/** What a processor's worker is made with, unless `@Processor` says otherwise. */

import "reflect-metadata";

import type { WorkerOptions } from "bullmq";

// Where `@Processor(name, options)` of @nestjs/bullmq keeps the options.
const WORKER_METADATA = "bullmq:worker_metadata";

/**
 * How often a job may lose its process and still be run again. BullMQ's own 1 fails jobs that were only near:
 * the second machine that dies under a job ends it. A job hardly ever kills its process, because it runs in a
 * worker of the daemon, which ends it as `poisoned` at its second death. So nearly always the machine is to
 * blame, and a machine may well be taken away often: of jobs that take 40 minutes, on machines that last an hour
 * on average, one in four loses two, and three in ten million lose more than 20. A job that does kill every
 * process, as one whose container is killed for its memory, ends after 21 of them.
 */
const MAX_STALLED_COUNT = 20;

/** Fills in what the class's own options leave out. */
export function defaultWorkerOptions(processor: object): void {
  const own = Reflect.getMetadata(WORKER_METADATA, processor) as Partial<WorkerOptions> | undefined;
  Reflect.defineMetadata(WORKER_METADATA, { maxStalledCount: MAX_STALLED_COUNT, ...own }, processor);
}
