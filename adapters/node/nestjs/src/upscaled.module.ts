import { Module } from "@nestjs/common";

import { ConfigurableModuleClass } from "./upscaled.module-definition.js";
import { UpscaledService } from "./upscaled.service.js";

/** One daemon for the application: `UpscaledModule.forRoot(options)` or `.forRootAsync({ useFactory })`. */
@Module({ providers: [UpscaledService], exports: [UpscaledService] })
export class UpscaledModule extends ConfigurableModuleClass {}
