import { Inject, Injectable, Logger } from "@nestjs/common";
import type { OnApplicationShutdown, OnModuleInit } from "@nestjs/common";
import { DaemonGoneError, Upscaler } from "upscaled";
import type { AskOptions, BufferResult, CallOptions, HealthReport, JobRequest, LogRecord, Result } from "upscaled";
import { HttpUpscaler } from "upscaled/http";

import { MODULE_OPTIONS_TOKEN } from "./upscaled.module-definition.js";
import type { UpscaledModuleOptions } from "./upscaled.module-definition.js";

/**
 * The application's daemon. It runs until `onApplicationShutdown`, and is started again if it exits. With the option
 * `url`, a server runs the jobs instead.
 */
@Injectable()
export class UpscaledService implements OnModuleInit, OnApplicationShutdown {
  readonly #logger = new Logger(UpscaledService.name);
  readonly #options: UpscaledModuleOptions;
  readonly #server: HttpUpscaler | undefined;
  #client: Upscaler | undefined;
  #isOpen = true;

  constructor(@Inject(MODULE_OPTIONS_TOKEN) options: UpscaledModuleOptions) {
    this.#options = options;
    if (options.url !== undefined) this.#server = new HttpUpscaler({ ...options, url: options.url });
  }

  async onModuleInit(): Promise<void> {
    if (this.#options.eager) await (this.#server ?? this.client).ready();
  }

  onApplicationShutdown(): Promise<void> {
    return this.close();
  }

  /** Lets the accepted jobs finish for `closeTimeoutMs`; then no process of the daemon is left. */
  async close(): Promise<void> {
    this.#isOpen = false;
    await (this.#server ?? this.#client)?.close();
  }

  /** False once the application shuts down, or the daemon cannot be kept alive: no job will run here any more. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** True if a server runs the jobs, by the option `url`. */
  get isServer(): boolean {
    return this.#server !== undefined;
  }

  /**
   * The client of the daemon, for what is not here. The first use starts the daemon. Throws `DaemonGoneError` after the
   * shutdown, and `TypeError` with the option `url`, because there is no daemon then.
   */
  get client(): Upscaler {
    if (this.#server !== undefined) throw new TypeError("with the option url the jobs are a server's: there is no client of a daemon");
    if (this.#client !== undefined) return this.#client;
    if (!this.#isOpen) throw new DaemonGoneError("the application shuts down");
    this.#client = new Upscaler(this.#options);
    this.#client.on("log", (record) => this.#log(record));
    this.#client.on("gone", (error) => this.#logger.error(error.message));
    this.#client.on("end", () => (this.#isOpen = false));
    return this.#client;
  }

  /** Run one job, as the client does. Rejects with `JobError`, or with `DaemonGoneError` if the daemon went away. */
  upscale(request: JobRequest, options: CallOptions & { readonly output: "buffer" }): Promise<BufferResult>;
  upscale(request: JobRequest, options?: CallOptions): Promise<Result>;
  async upscale(request: JobRequest, options?: CallOptions): Promise<Result | BufferResult> {
    return (this.#server ?? this.client).upscale(request, options);
  }

  /** The daemon's state. Rejects with `DaemonGoneError`, or with `NoAnswerError`. */
  async health(options?: AskOptions): Promise<HealthReport> {
    return (this.#server ?? this.client).health(options);
  }

  /** Writes the daemon's log to the application's log. */
  #log({ text, ...record }: LogRecord): void {
    const line = text ?? JSON.stringify(record);
    switch (record.level) {
      case "debug":
        return this.#logger.debug(line);
      case "warning":
        return this.#logger.warn(line);
      case "error":
      case "critical":
        return this.#logger.error(line);
      default:
        return this.#logger.log(line);
    }
  }
}
