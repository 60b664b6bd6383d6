/** Decides if and when a daemon that exited is started again. */

import type { Call } from "./call.js";
import type { DaemonGoneError } from "./errors.js";
import type { RestartPolicy } from "./options.js";

const DEFAULT: RestartPolicy = { attempts: 5, delayMs: 200, maxDelayMs: 10_000 };
const NEVER: RestartPolicy = { attempts: 0, delayMs: 0, maxDelayMs: 0 };

// The daemon's exit status for wrong usage, which it may find out after its first line.
const USAGE_STATUS = 2;

export class Restarts {
  readonly #policy: RestartPolicy;
  #failedStarts = 0;
  #isReady = false;
  #wasReady = false;

  constructor(policy: Partial<RestartPolicy> | false | undefined) {
    this.#policy = policy === false ? NEVER : { ...DEFAULT, ...policy };
  }

  /** Whether any daemon has been ready. */
  get wasReady(): boolean {
    return this.#wasReady;
  }

  handleStart(): void {
    this.#isReady = false;
  }

  handleReady(): void {
    this.#isReady = true;
    this.#wasReady = true;
    this.#failedStarts = 0;
  }

  /** Milliseconds from this end to the next start; undefined if there will be none. */
  delayMsAfter(error: DaemonGoneError): number | undefined {
    this.#failedStarts += this.#isReady ? 0 : 1;
    const { attempts, delayMs, maxDelayMs } = this.#policy;
    if (this.#failedStarts >= attempts || this.#isHopeless(error)) return undefined;
    return Math.min(delayMs * 2 ** this.#failedStarts, maxDelayMs);
  }

  /** Counts a daemon that did not accept this job; false if there were as many as starts may fail. */
  mayLose(call: Call): boolean {
    call.losses += 1;
    return call.losses < this.#policy.attempts;
  }

  /** Whether a new start would fail in the same way. A program that has worked once may work again, as after a deployment. */
  #isHopeless({ status, cause }: DaemonGoneError): boolean {
    if (this.#wasReady) return false;
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
    return status === USAGE_STATUS || code === "ENOENT" || code.startsWith("ERR_");
  }
}
