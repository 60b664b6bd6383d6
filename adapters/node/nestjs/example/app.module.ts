import { BullModule } from "@nestjs/bullmq";
import { Module } from "@nestjs/common";
import type { DynamicModule } from "@nestjs/common";
import { MulterModule } from "@nestjs/platform-express";
import { TerminusModule } from "@nestjs/terminus";
import { UpscaledModule } from "upscaled-nestjs";
import { UpscaledHealthIndicator } from "upscaled-nestjs/terminus";

import { HealthController, RedisHealthIndicator } from "./health.controller.js";
import { JobsController } from "./jobs.controller.js";
import { JobsService } from "./jobs.service.js";
import { METHODS, queueOf } from "./methods.js";
import * as processors from "./processors.js";
import { ResultsController } from "./results.controller.js";
import { Settings } from "./settings.js";
import { ShutdownBound } from "./shutdown.js";
import { UpscaleController } from "./upscale.controller.js";
import { uploadsInto } from "./uploads.js";

@Module({})
class SettingsModule {
  static for(settings: Settings): DynamicModule {
    const provider = { provide: Settings, useValue: settings };
    return { module: SettingsModule, global: true, providers: [provider], exports: [provider] };
  }
}

@Module({
  imports: [
    UpscaledModule.forRootAsync({
      inject: [Settings],
      useFactory: ({ uploadDir, outputDir, command, daemonArgs, closeTimeoutMs }: Settings) => ({
        ...(command !== undefined && { command }),
        ...(closeTimeoutMs !== undefined && { closeTimeoutMs }),
        // The second lock: jobs name no other paths, and could not use them.
        args: ["--allow-root", uploadDir, "--allow-root", outputDir, ...daemonArgs],
        // If the daemon cannot be started, the application fails now, and not each job.
        eager: true,
      }),
    }),
    BullModule.forRootAsync({
      inject: [Settings],
      useFactory: ({ redis }: Settings) => ({ connection: redis }),
    }),
    BullModule.registerQueue(...METHODS.map((method) => ({ name: queueOf(method) }))),
    MulterModule.registerAsync({ inject: [Settings], useFactory: uploadsInto }),
    TerminusModule.forRoot({ logger: false }),
  ],
  controllers: [UpscaleController, JobsController, ResultsController, HealthController],
  providers: [JobsService, ShutdownBound, UpscaledHealthIndicator, RedisHealthIndicator, ...Object.values(processors)],
})
export class AppModule {
  static for(settings: Settings): DynamicModule {
    return { module: AppModule, imports: [SettingsModule.for(settings)] };
  }
}
