/** A process that the test kills or freezes: `host.js PORT QUEUE`. Writes its daemon's pid, then its log. */

import { ConsoleLogger } from "@nestjs/common";

import { startWorkerApp, TestQueue } from "./workers.js";

// Others are to find its jobs, and BullMQ has one look for them in an interval of its own.
const worker = { skipStalledCheck: true };

const [, , port, name] = process.argv;
const queue = new TestQueue(Number(port), name);
const { upscaled } = await startWorkerApp(queue, worker, { eager: true }, new ConsoleLogger({ colors: false }));
console.log(`daemon ${upscaled.client.pid}`);
