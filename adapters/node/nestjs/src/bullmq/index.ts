export { failureOf } from "./failure.js";
export type { JobFailure } from "./failure.js";
export type { JobProgress } from "./progress.reporter.js";
export { logErrorsOf, logOnceAMinute } from "./repeated.errors.js";
export { UpscaleProcessor } from "./upscale.processor.js";
