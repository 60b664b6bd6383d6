/** A Redis that evicts keys when its memory is full throws accepted jobs away, without a word. */

import type { Worker } from "bullmq";

/** The part of every Redis client of BullMQ's that is used here. */
interface RedisClient {
  info(): Promise<string>;
}

/** The object that has BullMQ's Redis client: the worker in version 5, its backend in version 6. */
interface Connected {
  readonly client?: Promise<RedisClient>;
  readonly backend?: { readonly client?: Promise<RedisClient> };
}

/** What is set wrongly, and what to set; undefined if this Redis evicts nothing. Waits until Redis is there. */
export async function evictionProblem(worker: Worker): Promise<string | undefined> {
  const { client, backend } = worker as unknown as Connected;
  // Not CONFIG GET, which hosted Redis servers refuse.
  const info = (await (await (client ?? backend?.client))?.info()) ?? "";
  const [, policy = "noeviction"] = /^maxmemory_policy:(\S+)/m.exec(info) ?? [];
  const [, bytes = "0"] = /^maxmemory:(\d+)/m.exec(info) ?? [];
  if (policy === "noeviction" || bytes === "0") return undefined;
  return (
    `Redis loses jobs when its memory is full: its maxmemory-policy is ${policy}, with a maxmemory of ` +
    `${bytes} bytes; set maxmemory-policy to noeviction`
  );
}
