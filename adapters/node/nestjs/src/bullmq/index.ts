export { failureOf } from "./failure.js";
export type { JobFailure } from "./failure.js";
export type { JobProgress } from "./progress.reporter.js";
export { UpscaleProcessor } from "./upscale.processor.js";
