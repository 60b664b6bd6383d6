import { Logger } from "@nestjs/common";

import { createApp } from "./app.js";
import { settingsFrom } from "./settings.js";

const logger = new Logger("main");

try {
  const settings = settingsFrom(process.env);
  const app = await createApp(settings);
  await app.listen(settings.port);
  const url = `http://localhost:${settings.port}`;
  logger.log(`listening on ${url}; try it out on ${url}/api/docs`);
} catch (error) {
  logger.error(error instanceof Error ? error.message : error);
  // What has been started of the application would keep the process alive.
  process.exit(1);
}
