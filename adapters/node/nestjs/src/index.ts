export { UpscaledModule } from "./upscaled.module.js";
export type { UpscaledModuleOptions } from "./upscaled.module-definition.js";
export { UpscaledService } from "./upscaled.service.js";
