export { Channel } from "./channel.js";
export { Upscaler } from "./client.js";
export type { UpscalerEvents } from "./client.js";
export type { LogRecord } from "./daemon.js";
export { DaemonGoneError, JobError, NoAnswerError } from "./errors.js";
export type { JobRequest } from "./jobline.js";
export type { AskOptions, CallOptions, RestartPolicy, UpscalerOptions } from "./options.js";
export * from "./protocol.js";
export type { BufferResult, JobInput, JobOutput } from "./transfer.js";
