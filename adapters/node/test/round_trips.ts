/**
 * For `upscaled bench clients`: seconds of round trips through the client and through a raw pipe echo, in
 * turns. `round_trips.js '{"rounds":…,"trips":…,"echo":[…],"run":[…]}'`.
 */

import { spawn } from "node:child_process";

import { Upscaler } from "../src/index.js";
import type { JobRequest } from "../src/index.js";

interface Order {
  rounds: number;
  trips: number;
  echo: [string, ...string[]];
  run: string[];
}

const JOB: JobRequest = { method: "fake", config: { steps: 0 } };
const LINE = `${JSON.stringify({ job_id: "00000000-0000-0000-0000-000000000000", ...JOB })}\n`;

async function measure(trips: number, trip: () => Promise<unknown>): Promise<number[]> {
  const seconds: number[] = [];
  for (let number = 0; number < trips; number++) {
    const start = process.hrtime.bigint();
    await trip();
    seconds.push(Number(process.hrtime.bigint() - start) / 1e9);
  }
  return seconds;
}

const order = JSON.parse(process.argv[2] ?? "") as Order;
const [program, ...args] = order.echo;
const echo = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
let answered: () => void = () => {};
// A line is far smaller than what a pipe passes on at once.
echo.stdout.on("data", () => answered());
const echoTrip = (): Promise<void> =>
  new Promise((resolve) => {
    answered = resolve;
    echo.stdin.write(LINE);
  });

const up = await Upscaler.start({ command: order.run });
const seconds: { echo: number[]; client: number[] } = { echo: [], client: [] };
for (let round = 0; round <= order.rounds; round++) {
  const echoed = await measure(order.trips, echoTrip);
  const run = await measure(order.trips, () => up.upscale(JOB));
  if (round === 0) continue; // it warms up
  seconds.echo.push(...echoed);
  seconds.client.push(...run);
}
await up.close();
echo.stdin.end();
console.log(JSON.stringify(seconds));
