/** Questions for the daemon's health, and their answers. Those that find no daemon are for the next one. */

import { clearTimeout, setTimeout } from "node:timers";

import { onAbort } from "./aborts.js";
import type { Channel } from "./channel.js";
import { NoAnswerError } from "./errors.js";
import type { AskOptions } from "./options.js";
import type { HealthReport, Replay } from "./protocol.js";

// A daemon answers at once; one that is being started takes some seconds.
const TIMEOUT_MS = 60_000;

interface Question {
  readonly type: "health" | "trim";
  isSent: boolean;
  resolve(report: HealthReport): void;
  reject(reason: unknown): void;
}

export class Questions {
  // By `request_id`, in the order of asking.
  readonly #open = new Map<string, Question>();
  // Those that are not written yet.
  readonly #replays: Replay[] = [];
  #asked = 0;

  get size(): number {
    return this.#open.size;
  }

  /** Resolves with the answer; rejects when the caller gives it up. `onSettled` comes first. */
  ask(type: Question["type"], options: AskOptions, onSettled: () => void): Promise<HealthReport> {
    const { signal, timeoutMs = TIMEOUT_MS } = options;
    const id = String(++this.#asked);
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const stopListening = signal && onAbort(signal, () => question.reject(signal.reason));
      const timer = setTimeout(() => {
        question.reject(new NoAnswerError(`the daemon did not answer ${type} within ${timeoutMs / 1000} s`));
      }, timeoutMs);
      const end = (): void => {
        clearTimeout(timer);
        stopListening?.();
        this.#open.delete(id);
        onSettled();
      };
      const question: Question = {
        type,
        isSent: false,
        resolve: (report) => (end(), resolve(report)),
        reject: (reason) => (end(), reject(reason)),
      };
      this.#open.set(id, question);
    });
  }

  /** Ask for the ends of these jobs, or of all. They come as messages of the jobs. */
  replay(jobIds: readonly string[] | undefined): void {
    this.#replays.push({ type: "replay", ...(jobIds !== undefined && { job_ids: [...jobIds] }) });
  }

  /** Write those that are not written yet, as long as there is room: a daemon that hangs gets no more than that. */
  write(channel: Channel): void {
    for (const replay of this.#replays.splice(0)) channel.send(replay);
    for (const [id, question] of this.#open) {
      if (question.isSent || !channel.hasRoom) continue;
      question.isSent = true;
      channel.send({ type: question.type, request_id: id });
    }
  }

  /** A daemon that does not know of `request_id` answers in the order of asking. */
  answer(report: HealthReport): void {
    const question =
      typeof report.request_id === "string"
        ? this.#open.get(report.request_id)
        : [...this.#open.values()].find(({ isSent }) => isSent);
    question?.resolve(report);
  }

  rejectAll(error: Error): void {
    for (const question of [...this.#open.values()]) question.reject(error);
  }
}
