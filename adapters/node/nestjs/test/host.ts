/** A process that is to be killed or frozen: `host.js PORT QUEUE`. Tells its daemon's pid, then what it logs. */

import { ConsoleLogger } from "@nestjs/common";

import { startWorkerApp, TestQueue } from "./workers.js";

// Others are to find its jobs, and BullMQ has one look for them in an interval of its own.
const worker = { skipStalledCheck: true };

const [, , port, name] = process.argv;
const queue = new TestQueue(Number(port), name);
const { upscaled } = await startWorkerApp(queue, worker, { eager: true }, new ConsoleLogger({ colors: false }));
console.log(`daemon ${upscaled.client.pid}`);
