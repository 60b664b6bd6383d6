/** A process that is to be killed or frozen: `host.js PORT QUEUE`. Tells its daemon's pid, then what it logs. */

import { ConsoleLogger } from "@nestjs/common";

import { startWorkerApp, TestQueue } from "./workers.js";

const [, , port, name] = process.argv;
const queue = new TestQueue(Number(port), name);
const { upscaled } = await startWorkerApp(queue, {}, { eager: true }, new ConsoleLogger({ colors: false }));
console.log(`daemon ${upscaled.client.pid}`);
