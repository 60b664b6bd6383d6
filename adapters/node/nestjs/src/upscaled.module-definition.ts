import { ConfigurableModuleBuilder } from "@nestjs/common";
import type { UpscalerOptions } from "upscaled";

export interface UpscaledModuleOptions extends UpscalerOptions {
  /**
   * Start the daemon with the application, which fails to start if the daemon does not get ready.
   * Otherwise the first call starts it.
   */
  readonly eager?: boolean;
  /** A server, `upscaled serve`, in place of a daemon of the application's own. */
  readonly url?: string;
  /** One of the server's keys, if it has any. */
  readonly key?: string;
}

export const { ConfigurableModuleClass, MODULE_OPTIONS_TOKEN } =
  new ConfigurableModuleBuilder<UpscaledModuleOptions>({ moduleName: "Upscaled" })
    .setClassMethodName("forRoot")
    .setExtras({ isGlobal: true }, (definition, { isGlobal }) => ({ ...definition, global: isGlobal }))
    .build();
