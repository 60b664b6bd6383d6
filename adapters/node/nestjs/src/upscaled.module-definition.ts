import { ConfigurableModuleBuilder } from "@nestjs/common";
import type { UpscalerOptions } from "upscaled";

export interface UpscaledModuleOptions extends UpscalerOptions {
  /**
   * Start the daemon with the application, which then comes up only where the daemon gets ready.
   * Otherwise its first user starts it.
   */
  readonly eager?: boolean;
}

export const { ConfigurableModuleClass, MODULE_OPTIONS_TOKEN } =
  new ConfigurableModuleBuilder<UpscaledModuleOptions>({ moduleName: "Upscaled" })
    .setClassMethodName("forRoot")
    .setExtras({ isGlobal: true }, (definition, { isGlobal }) => ({ ...definition, global: isGlobal }))
    .build();
