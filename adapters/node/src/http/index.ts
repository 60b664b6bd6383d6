export type * from "./api.js";
export { connect, HttpUpscaler } from "./client.js";
export type { HttpUpscalerOptions } from "./client.js";
