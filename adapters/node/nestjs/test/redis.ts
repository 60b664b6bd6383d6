/** A Redis of the tests' own. */

import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export interface Redis {
  readonly port: number;
  /** Stop its answers, and let it answer again. */
  freeze(): void;
  thaw(): void;
  stop(): Promise<void>;
}

/** Starts redis-server with these options on a free port of 127.0.0.1. It ends with this process at the latest. */
export async function startRedis(...options: string[]): Promise<Redis> {
  const port = await freePort();
  const folder = await mkdtemp(join(tmpdir(), "upscaled-redis-"));
  // The shell outlives us by as much as it takes to see the end of its input.
  const script = 'redis-server --bind 127.0.0.1 --save "" --port "$0" --dir "$@" & echo pid $!; cat; kill -CONT $!; kill $!; wait';
  const shell = spawn("sh", ["-c", script, String(port), folder, ...options], { stdio: ["pipe", "pipe", "inherit"] });
  let pid = 0;
  let isReady = false;
  for await (const line of createInterface({ input: shell.stdout })) {
    if (line.startsWith("pid ")) pid = Number(line.slice(4));
    isReady = line.includes("Ready to accept connections");
    if (isReady || line.includes("Failed listening on port")) break;
  }
  shell.stdout.resume();
  const stop = async (): Promise<void> => {
    shell.stdin.end();
    await once(shell, "exit");
    await rm(folder, { recursive: true });
  };
  if (!isReady) {
    await stop();
    return startRedis(...options); // another program has taken the port
  }
  return {
    port,
    freeze: () => void process.kill(pid, "SIGSTOP"),
    thaw: () => void process.kill(pid, "SIGCONT"),
    stop,
  };
}

/**
 * A port of 127.0.0.1 that nothing listens on. It is below the ports of sockets that ask for none in particular,
 * because one of those may be bound between this search and the server's start.
 */
export async function freePort(): Promise<number> {
  const port = 20_000 + randomInt(12_000);
  const server = createServer().listen(port, "127.0.0.1");
  try {
    await once(server, "listening");
  } catch {
    return freePort();
  }
  server.close();
  await once(server, "close");
  return port;
}
