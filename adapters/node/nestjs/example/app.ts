import "reflect-metadata";

import type { NestApplicationOptions } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import type { NestExpressApplication } from "@nestjs/platform-express";
import { DocumentBuilder, SwaggerModule } from "@nestjs/swagger";

import { AppModule } from "./app.module.js";
import { FormPipe } from "./form.pipe.js";
import type { Settings } from "./settings.js";

/** The API, ready to listen. */
export async function createApp(
  settings: Settings,
  options: NestApplicationOptions = {},
): Promise<NestExpressApplication> {
  const app = await NestFactory.create<NestExpressApplication>(AppModule.for(settings), { abortOnError: false, ...options });
  app.useGlobalPipes(new FormPipe());
  const description = new DocumentBuilder().setTitle("upscaled").setVersion("0.1.0").build();
  SwaggerModule.setup("api/docs", app, () => SwaggerModule.createDocument(app, description));
  // SIGTERM lets running jobs finish, and takes the daemon along.
  app.enableShutdownHooks();
  return app;
}
