/**
 * Requests to one server, each sent again while that may help:
 *
 *     answered 2xx ──────────────────────────────────────> the response
 *     429 ───────────────────────── wait Retry-After ────> again, as often as it takes
 *     lost, 408, 502, 503, 504 ──── wait, longer each time > again, `attempts` times in a row
 *     certificate not trusted ───────────────────────────> DaemonGoneError
 *     anything else ─────────────────────────────────────> JobError, with the problem's code
 */

import { setTimeout as sleep } from "node:timers/promises";

import { DaemonGoneError, JobError } from "../errors.js";
import type { RestartPolicy } from "../options.js";
import type { ErrorMessage } from "../protocol.js";
import type { Problem } from "./api.js";

/** A server of ours restarts within some seconds, and a container that is replaced within half a minute. */
const RETRIES: RestartPolicy = { attempts: 8, delayMs: 200, maxDelayMs: 10_000 };

// A proxy in front of the server answers so while the server restarts.
const MAY_PASS = new Set([408, 502, 503, 504]);
const TOO_MANY = 429;

// The codes of a certificate that is not trusted: the next try would see the same one.
const UNTRUSTED = /CERT|SIGNATURE/;

// A refusal without a Retry-After.
const DEFAULT_WAIT_MS = 1000;

// The longest quote of an answer that is no problem document.
const LONGEST_QUOTE = 200;

export interface Exchange {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Called for each try. */
  readonly body?: () => AsyncIterable<Uint8Array>;
  /** Ends the exchange, and the waiting between two tries. */
  readonly signal: AbortSignal;
  /** Whose error it is. */
  readonly jobId?: string;
  /** A status beside 2xx whose answer is wanted too. */
  readonly alsoOk?: number;
  /** Called with each refusal. What it throws ends the exchange. */
  readonly onRefused?: () => void;
}

/** The failures in a row of one thing that is tried again. */
export class Patience {
  #failures = 0;
  readonly #policy: RestartPolicy;

  constructor(policy: RestartPolicy) {
    this.#policy = policy;
  }

  /** A try succeeded: count from 0 again. */
  reset(): void {
    this.#failures = 0;
  }

  /** Waits before the next try, at least so long. Throws the error if there were too many. */
  async wait(error: Error, signal: AbortSignal, atLeastMs = 0): Promise<void> {
    const { attempts, delayMs, maxDelayMs } = this.#policy;
    if (this.#failures >= attempts) throw error;
    const delay = Math.min(delayMs * 2 ** this.#failures, maxDelayMs);
    this.#failures += 1;
    // Clients that lost the same server connect again at different moments.
    await sleep(Math.max(atLeastMs, delay * (0.75 + Math.random() / 2)), undefined, { signal });
  }
}

export class Connection {
  readonly #base: string;
  readonly #key: string | undefined;
  readonly #policy: RestartPolicy;

  /** Throws `TypeError` if the URL is none of http or https. */
  constructor(url: string | URL, key: string | undefined, policy: Partial<RestartPolicy> | false | undefined) {
    const base = new URL(url);
    const isPlain = /^https?:$/.test(base.protocol) && base.username === "" && base.password === "";
    if (!isPlain) throw new TypeError("url must begin with http:// or https://, and the key is an option of its own");
    this.#base = `${base.origin}${base.pathname.replace(/\/+$/, "")}`;
    this.#key = key;
    this.#policy = policy === false ? { ...RETRIES, attempts: 0 } : { ...RETRIES, ...policy };
  }

  patience(): Patience {
    return new Patience(this.#policy);
  }

  /** The response, once there is one of 2xx. Throws `JobError`, `DaemonGoneError`, and the signal's reason. */
  async send(path: string, exchange: Exchange): Promise<Response> {
    const patience = this.patience();
    for (;;) {
      exchange.signal.throwIfAborted();
      let response: Response;
      try {
        response = await this.#fetch(path, exchange);
      } catch (error) {
        exchange.signal.throwIfAborted();
        const { cause } = error as Error;
        if (cause instanceof JobError) throw cause; // the body's own
        if (UNTRUSTED.test((cause as NodeJS.ErrnoException | undefined)?.code ?? "")) throw this.lost(error);
        await patience.wait(this.lost(error), exchange.signal);
        continue;
      }
      if (response.ok || response.status === exchange.alsoOk) return response;
      const error = await problemOf(response, exchange.jobId ?? "");
      exchange.onRefused?.();
      const waitMs = retryAfterMs(response);
      if (response.status === TOO_MANY && error.retryable) {
        await sleep(waitMs ?? DEFAULT_WAIT_MS, undefined, { signal: exchange.signal });
      } else if (MAY_PASS.has(response.status) && error.retryable) {
        await patience.wait(error, exchange.signal, waitMs);
      } else {
        throw error;
      }
    }
  }

  /** The whole body of the response, asked for again if it breaks off. Throws as `send` does. */
  async text(path: string, exchange: Exchange): Promise<string> {
    const patience = this.patience();
    for (;;) {
      const response = await this.send(path, exchange);
      try {
        return await response.text();
      } catch (error) {
        exchange.signal.throwIfAborted();
        await patience.wait(this.lost(error), exchange.signal);
      }
    }
  }

  /** What a request ends with whose server does not answer. */
  lost(error: unknown): DaemonGoneError {
    const { message, cause } = error instanceof Error ? error : new Error(String(error));
    const why = cause instanceof Error ? cause.message || cause.name : message;
    return new DaemonGoneError(`the server ${this.#base} cannot be reached: ${why}`, {}, { cause: error });
  }

  #fetch(path: string, { method = "GET", headers, body, signal }: Exchange): Promise<Response> {
    const key = this.#key === undefined ? {} : { authorization: `Bearer ${this.#key}` };
    return fetch(`${this.#base}${path}`, {
      method,
      headers: { ...headers, ...key },
      signal,
      // A key goes to the server that it was given for, and to no other.
      redirect: "manual",
      ...(body && { body: body(), duplex: "half" as const }),
    });
  }
}

/** The body as JSON, without its nulls: absent and null mean the same. */
export function parsed<T>(text: string): T {
  return JSON.parse(text, (_, value: unknown) => (value === null ? undefined : value)) as T;
}

async function problemOf(response: Response, jobId: string): Promise<JobError> {
  const text = await response.text().catch(() => "");
  let problem: Partial<Problem> = {};
  try {
    const body = parsed<Partial<Problem> | undefined>(text);
    if (typeof body?.code === "string" && typeof body.detail === "string") problem = body;
  } catch {
    // A proxy's page.
  }
  const { detail, code, retryable } = problem;
  const isPassing = MAY_PASS.has(response.status) || response.status === TOO_MANY;
  const said = text.trim().slice(0, LONGEST_QUOTE) || response.statusText;
  return new JobError(jobId, {
    error: detail ?? `the server answered ${response.status}: ${said}`,
    ...(code !== undefined && { code: code as ErrorMessage["code"] }),
    retryable: retryable ?? (code === undefined && isPassing),
  });
}

/** In milliseconds; undefined if the server names no time (RFC 9110, section 10.2.3: seconds, or a date). */
function retryAfterMs(response: Response): number | undefined {
  const text = response.headers.get("retry-after") ?? "";
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}
