import { createApp } from "./app.js";
import { settingsFrom } from "./settings.js";

const settings = settingsFrom(process.env);
const app = await createApp(settings);
await app.listen(settings.port);
