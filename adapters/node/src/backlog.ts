/** The calls whose jobs wait in the client, and which jobs the daemon holds. */

import type { Call } from "./call.js";

export class Backlog {
  // Jobs for which the daemon had no room. They are older, so they go first.
  readonly #refused = new CallQueue();
  readonly #waiting = new CallQueue();
  // Ids of all jobs that the daemon has, by its messages: also jobs of a journal, and jobs whose calls have ended.
  readonly #held = new Set<string>();
  // Ids of jobs that are written and neither accepted nor refused yet.
  readonly #unanswered = new Set<string>();
  // Jobs that the daemon may hold, learned from its `queue_full`.
  #room = Infinity;
  #isStopped = false;

  /** Whether nothing waits to be written, or to be written again. */
  get isWritten(): boolean {
    const mayComeBack = this.#room !== Infinity && this.#unanswered.size > 0;
    return this.#refused.size + this.#waiting.size === 0 && !mayComeBack;
  }

  /** Whether the daemon has a job of that id, or may have. */
  holds(id: string): boolean {
    return this.#held.has(id);
  }

  isWaiting(call: Call): boolean {
    return this.#refused.has(call) || this.#waiting.has(call);
  }

  add(call: Call): void {
    this.#waiting.add(call);
  }

  remove(call: Call): void {
    this.#refused.delete(call);
    this.#waiting.delete(call);
  }

  /** The next call to write, which the daemon holds from now on; undefined while there is none, or no room for it. */
  take(): Call | undefined {
    if (this.#isStopped || this.#held.size + 1 > this.#room) return undefined;
    const call = this.#refused.take() ?? this.#waiting.take();
    if (call === undefined) return undefined;
    this.#held.add(call.id);
    this.#unanswered.add(call.id);
    return call;
  }

  /** The daemon has accepted this job, which may be none of ours. */
  accepted(id: string): void {
    this.#held.add(id);
    this.#unanswered.delete(id);
  }

  /** A job has ended. One more is tried per `room` of them, because the daemon may have got more room. */
  ended(id: string): void {
    this.#unanswered.delete(id);
    if (this.#held.delete(id)) this.#room += 1 / this.#room;
  }

  /** The daemon's queue is full: the call waits until a job ends. False if the daemon holds none that could. */
  waitForRoom(call: Call): boolean {
    this.#held.delete(call.id);
    this.#unanswered.delete(call.id);
    if (this.#held.size === 0) return false;
    this.#room = this.#held.size;
    this.#refused.add(call);
    return true;
  }

  /** The daemon takes no more jobs: the call waits for the next daemon. */
  waitForNext(call: Call): void {
    this.#held.delete(call.id);
    this.#unanswered.delete(call.id);
    this.#isStopped = true;
    this.#refused.add(call);
  }

  /** The daemon is gone: these calls wait from now on, in this order. */
  restart(calls: Iterable<Call>): void {
    this.#held.clear();
    this.#unanswered.clear();
    this.#room = Infinity;
    this.#isStopped = false;
    this.#refused.clear();
    this.#waiting.clear();
    for (const call of calls) this.#waiting.add(call);
  }
}

/** First in, first out; a waiting call can be removed. */
class CallQueue {
  readonly #calls = new Set<Call>();
  // Kept between calls: a new one would pass over all that was taken since the set was last made smaller.
  #cursor = this.#calls.values();

  get size(): number {
    return this.#calls.size;
  }

  has(call: Call): boolean {
    return this.#calls.has(call);
  }

  add(call: Call): void {
    this.#calls.add(call);
  }

  delete(call: Call): void {
    this.#calls.delete(call);
  }

  clear(): void {
    this.#calls.clear();
  }

  take(): Call | undefined {
    if (this.#calls.size === 0) return undefined;
    let next = this.#cursor.next();
    if (next.done) {
      // The iterator has reached the end once, and finds no later entries.
      this.#cursor = this.#calls.values();
      next = this.#cursor.next();
    }
    if (next.value !== undefined) this.#calls.delete(next.value);
    return next.value;
  }
}
