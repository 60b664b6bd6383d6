/** What BullMQ says of a Redis that is away: each of its connections, at each try to get it back. */

import type { EventEmitter } from "node:events";

import type { Logger } from "@nestjs/common";

const INTERVAL_MS = 60_000;

// When each sentence was last logged, by any connection of this process.
const logged = new Map<string, number>();

/** Logs a sentence unless it was logged within the last minute. */
export function logOnceAMinute(logger: Pick<Logger, "warn">, sentence: string): void {
  const now = performance.now();
  for (const [one, at] of logged) if (now - at > INTERVAL_MS) logged.delete(one);
  if (logged.has(sentence)) return;
  logged.set(sentence, now);
  logger.warn(sentence);
}

/** Logs what a queue, or another of BullMQ's classes, reports as an error: the same sentence once a minute. */
export function logErrorsOf(emitter: Pick<EventEmitter, "on">, logger: Pick<Logger, "warn">): void {
  emitter.on("error", (error: Error) => logOnceAMinute(logger, error.message));
}
