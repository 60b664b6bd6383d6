import { Inject, Injectable, Logger } from "@nestjs/common";
import type { BeforeApplicationShutdown } from "@nestjs/common";
import { UpscaledService } from "upscaled-nestjs";

// The time in which BullMQ writes the ends of the jobs to Redis, once the daemon has ended them.
const REDIS_MS = 2000;

/**
 * Ends the process within a bound after a signal, because Nest waits for BullMQ, which waits without a limit for a
 * Redis that is away. A job that could not be given back goes to another process when its lock has run out.
 */
@Injectable()
export class ShutdownBound implements BeforeApplicationShutdown {
  readonly #logger = new Logger(ShutdownBound.name);

  constructor(@Inject(UpscaledService) private readonly upscaled: UpscaledService) {}

  beforeApplicationShutdown(signal?: string): void {
    // Without a signal, the program itself has closed the application, and continues.
    if (signal !== undefined) void this.upscaled.close().then(() => setTimeout(() => this.#exit(), REDIS_MS).unref());
  }

  #exit(): void {
    this.#logger.error(`Redis did not answer within ${REDIS_MS / 1000} s; the process ends without it`);
    process.exit(1);
  }
}
