export { Channel } from "./channel.js";
export { Upscaler } from "./client.js";
export type { CallOptions, JobRequest, RestartPolicy, UpscalerEvents, UpscalerOptions } from "./client.js";
export type { LogRecord } from "./daemon.js";
export { DaemonGoneError, JobError } from "./errors.js";
export * from "./protocol.js";
