/** What a processor's worker is made with, unless `@Processor` says otherwise. */

import "reflect-metadata";

import type { WorkerOptions } from "bullmq";

// The metadata key of the options of `@Processor(name, options)` in @nestjs/bullmq.
const WORKER_METADATA = "bullmq:worker_metadata";

/**
 * How often a job may lose its process and still be run again. With BullMQ's own 1,
 * a job fails if it loses two machines. A job hardly ever ends its process, because it runs in a worker of the
 * daemon, which ends it as `poisoned` when it kills its second worker. So the cause is nearly always the machine,
 * and machines may be taken away often: of jobs that take 40 minutes, on machines that last an hour on average,
 * one in four loses two, and three in ten million lose more than 20. A job that does end every process, as one
 * whose container is killed for its memory, fails after 21 of them.
 */
const MAX_STALLED_COUNT = 20;

/** Fills in what the class's own options leave out. */
export function defaultWorkerOptions(processor: object): void {
  const own = Reflect.getMetadata(WORKER_METADATA, processor) as Partial<WorkerOptions> | undefined;
  Reflect.defineMetadata(WORKER_METADATA, { maxStalledCount: MAX_STALLED_COUNT, ...own }, processor);
}
