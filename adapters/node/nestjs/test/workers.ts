/** Applications with a processor on the fake engine, and a queue to feed and watch them. */

import "reflect-metadata";

import { randomUUID } from "node:crypto";

import { BullModule, Processor } from "@nestjs/bullmq";
import { Module } from "@nestjs/common";
import type { INestApplicationContext, LoggerService } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { Queue, QueueEvents } from "bullmq";
import type { Job, JobsOptions, WorkerOptions } from "bullmq";
import { Redis } from "ioredis";
import type { FakeConfig, JobRequest, Result } from "upscaled";
import { UpscaledModule, UpscaledService } from "upscaled-nestjs";
import type { UpscaledModuleOptions } from "upscaled-nestjs";
import { UpscaleProcessor } from "upscaled-nestjs/bullmq";

import { TIMEOUT_MS } from "./processes.js";

export interface WorkerApp extends AsyncDisposable {
  readonly app: INestApplicationContext;
  readonly upscaled: UpscaledService;
  readonly processor: UpscaleProcessor;
}

// Locks outlast whatever holds a busy machine up: they are lost only if a test breaks them. A job that came back is
// found within a second: BullMQ may have woken the frozen process for it.
const WORKER: Partial<WorkerOptions> = { drainDelay: 1, concurrency: 2 };

/** A worker that looks for jobs whose locks are lost, and at once. */
export const FINDER: Partial<WorkerOptions> = { stalledInterval: 100 };

/** Whatever is done to such a job at its first progress is done in its middle. */
export const HANGS: FakeConfig = { steps: 2, at_step: 1, hang: true };

export const RETRIES: JobsOptions = { attempts: 3, backoff: { type: "fixed", delay: 10 } };

/** An application that works on the queue until it is closed. */
export async function startWorkerApp(
  { name, port }: TestQueue,
  worker: Partial<WorkerOptions> = {},
  options: UpscaledModuleOptions = {},
  logger: LoggerService | false = false,
  request?: (job: Job) => unknown,
): Promise<WorkerApp> {
  @Processor(name, { ...WORKER, ...worker })
  class FakeProcessor extends UpscaleProcessor {
    protected override request(job: Job): JobRequest {
      return request === undefined ? super.request(job) : (request(job) as JobRequest);
    }
  }

  @Module({
    imports: [
      UpscaledModule.forRoot({ args: ["--methods", "fake", "--grace-s", "0.1"], ...options }),
      BullModule.forRoot({ connection: { host: "127.0.0.1", port } }),
      BullModule.registerQueue({ name }),
    ],
    providers: [FakeProcessor],
  })
  class WorkerModule {}

  const app = await NestFactory.create(WorkerModule, { logger, abortOnError: false });
  try {
    await app.init();
  } catch (error) {
    await app.close();
    throw error;
  }
  return {
    app,
    upscaled: app.get(UpscaledService),
    processor: app.get(FakeProcessor),
    [Symbol.asyncDispose]: () => app.close(),
  };
}

/** A queue of a test's own, seen by a host of its own. */
export class TestQueue {
  readonly queue: Queue;
  readonly events: QueueEvents;
  readonly #redis: Redis;

  constructor(
    readonly port: number,
    readonly name: string = randomUUID(),
  ) {
    const connection = { host: "127.0.0.1", port };
    this.queue = new Queue(name, { connection });
    // From the first event on, because nothing reports when the listener starts.
    this.events = new QueueEvents(name, { connection, lastEventId: "0" });
    this.#redis = new Redis(connection);
  }

  async add(config: FakeConfig, options: JobsOptions = {}): Promise<Job<JobRequest, Result>> {
    return this.queue.add("fake", { method: "fake", config }, options);
  }

  /** Adds a job, and waits until it has made progress. */
  async addRunning(config: FakeConfig, options: JobsOptions = {}): Promise<Job<JobRequest, Result>> {
    const progress = new Promise<void>((resolve) => this.events.once("progress", () => resolve()));
    const job = await this.add(config, options);
    await progress;
    return job;
  }

  result(job: Job<JobRequest, Result>): Promise<Result> {
    return job.waitUntilFinished(this.events, TIMEOUT_MS);
  }

  /** The job as it is now. */
  async reload({ id = "" }: Job): Promise<Job<JobRequest, Result>> {
    return (await this.queue.getJob(id)) ?? Promise.reject(new Error(`job ${id} is gone`));
  }

  /** How often the queue has said this of the job, ever. */
  async count(event: string, { id }: Job): Promise<number> {
    const entries = await this.#redis.xrange(this.queue.toKey("events"), "-", "+");
    const said = entries.map(([, flat]) => new Map(flat.map((_, at) => [flat[at * 2], flat[at * 2 + 1]])));
    return said.filter((entry) => entry.get("event") === event && entry.get("jobId") === id).length;
  }

  /** Have a job that runs do this instead, once it is delivered again. */
  async change(job: Job<JobRequest, Result>, config: FakeConfig): Promise<void> {
    await job.updateData({ method: "fake", config });
  }

  /** Take a running job's lock away, as happens while a process cannot renew it. */
  async breakLock({ id }: Job): Promise<void> {
    await this.#redis.del(`${this.queue.toKey(id ?? "")}:lock`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.events.close();
    await this.queue.close();
    await this.#redis.quit();
  }
}
