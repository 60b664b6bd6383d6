/**
 * A job as one line of JSON. What no daemon could read is refused here, before a line is written: a daemon
 * cannot answer such a line under the job's id, so its call would never end.
 */

import { randomUUID } from "node:crypto";
import { types } from "node:util";

import { JobError } from "./errors.js";
import type { ErrorCode, Job } from "./protocol.js";

// The protocol's limits.
export const LINE_LIMIT_BYTES = 32 * 1024 * 1024;
const DEEPEST_LEVEL = 1024;
const LONGEST_ID = 128;
const LONGEST_TIMEOUT_S = 604_800;

// `fake` runs without a config. A later daemon checks the configs of its own methods.
const NEED_CONFIG = new Set(["esrgan", "flux", "imagen", "face"]);

// The config's fields that hold paths. There U+DC80 to U+DCFF stand for one byte each that is no UTF-8.
const PATHS = new Set(["image_path", "output_path", "model", "upscale_model", "pre_model", "face_model"]);
const PATH_BYTES = /(?<![\uD800-\uDBFF])[\uDC80-\uDCFF]/g;

// Of a value or a name that an error quotes.
const LONGEST_QUOTE = 40;

type Request<J> = J extends Job ? Omit<J, "type" | "job_id" | "attempt"> & { job_id?: string } : never;

/** A job; without a `job_id` it is given one. */
export type JobRequest = Request<Job>;

export interface JobLine {
  readonly id: string;
  /** Without its newline. */
  readonly line: string;
  /** The job's own `timeout_s`, in milliseconds. */
  readonly timeoutMs: number | undefined;
}

/** The line of a job. Throws `JobError`: `invalid_job`, `invalid_json` or `line_too_long`. */
export function jobLine(request: unknown, limitBytes: number): JobLine {
  let id = "";
  try {
    if (typeof request !== "object" || request === null || Array.isArray(request)) {
      throw refusal(id, "invalid_job", `a job must be an object with a method and a config, not ${kindOf(request)}`);
    }
    id = checkedId((request as Partial<Job>).job_id ?? randomUUID());
    const job = new Copy(id, limitBytes).of({ ...request, job_id: id });
    const timeoutMs = checkedTimeoutMs(id, job["timeout_s"]);
    checkMethod(id, job);
    const line = JSON.stringify(job);
    if (Buffer.byteLength(line) > limitBytes) throw tooLong(id, limitBytes);
    return { id, line, timeoutMs };
  } catch (error) {
    if (error instanceof JobError) throw error;
    // A getter, a proxy or a `toJSON` of the caller's threw.
    throw refusal(id, "invalid_job", `the job cannot be read: ${sentenceOf(error)}`, error);
  }
}

/** The id. Throws `JobError` if it is none. */
export function checkedId(id: unknown): string {
  if (typeof id !== "string") {
    throw refusal("", "invalid_job", `job_id must be a string of 1 to ${LONGEST_ID} characters, not ${kindOf(id)}`);
  }
  // A character has at most two units, so a longer string needs no counting.
  const isLong = id.length > 2 * LONGEST_ID || [...id].length > LONGEST_ID;
  if (id === "" || isLong) {
    const what = isLong ? "longer" : "empty";
    throw refusal(id, "invalid_job", `job_id must be a string of 1 to ${LONGEST_ID} characters; this one is ${what}`);
  }
  if (!id.isWellFormed()) throw refusal(id, "invalid_job", halfAPair("job_id"));
  return id;
}

function checkedTimeoutMs(id: string, timeoutS: unknown): number | undefined {
  if (timeoutS === undefined || timeoutS === null) return undefined;
  if (typeof timeoutS === "number" && timeoutS > 0 && timeoutS <= LONGEST_TIMEOUT_S) return timeoutS * 1000;
  const given = typeof timeoutS === "number" ? timeoutS : kindOf(timeoutS);
  throw refusal(id, "invalid_job", `timeout_s must be a number above 0, at most ${LONGEST_TIMEOUT_S}, not ${given}`);
}

function checkMethod(id: string, { type = "job", method, config }: Record<string, unknown>): void {
  if (type !== null && type !== "job") {
    throw refusal(id, "invalid_job", `a job's type must be "job" or left out, not ${quoted(type)}`);
  }
  if (typeof method !== "string") {
    throw refusal(id, "invalid_job", `method must be a string, not ${kindOf(method)}`);
  }
  const isMissing = config === undefined || config === null;
  if (isMissing ? NEED_CONFIG.has(method) : typeof config !== "object" || Array.isArray(config)) {
    throw refusal(id, "invalid_job", `config must be an object, not ${kindOf(config)}`);
  }
}

/** Copies a job as JSON sees it, so that each value is read once and nothing is lost without an error. */
class Copy {
  readonly #id: string;
  readonly #limitBytes: number;
  // The names from the job to the value that is being copied, and the objects that it lies in.
  readonly #names: string[] = [];
  readonly #around = new Set<object>();
  // At least as many bytes as the line has, so that a small object that repeats itself a billion times ends soon.
  #bytes = 0;

  constructor(id: string, limitBytes: number) {
    this.#id = id;
    this.#limitBytes = limitBytes;
  }

  of(job: object): Record<string, unknown> {
    return this.#object(job) as Record<string, unknown>;
  }

  /** The value; undefined if JSON leaves it out. */
  #value(given: unknown, name: string): unknown {
    const value = unboxed(afterToJson(given, name));
    switch (typeof value) {
      case "string":
        return this.#text(value);
      case "boolean":
        this.#count(1);
        return value;
      case "number":
        this.#count(1);
        if (!Number.isFinite(value)) throw this.#refusal(`is ${value}`);
        return value;
      case "undefined":
        return undefined;
      case "object":
        return value === null ? null : this.#object(value);
      default:
        throw this.#refusal(`is a ${typeof value}`);
    }
  }

  #object(value: object): unknown {
    if (isOpaque(value)) throw this.#refusal(`is a ${Object.prototype.toString.call(value).slice(8, -1)}`);
    if (this.#around.has(value)) throw this.#refusal("contains itself");
    if (this.#around.size >= DEEPEST_LEVEL) {
      throw refusal(this.#id, "invalid_json", `the job is nested deeper than ${DEEPEST_LEVEL} levels`);
    }
    this.#around.add(value);
    this.#count(2);
    const copy = Array.isArray(value) ? this.#elements(value) : this.#fields(value);
    this.#around.delete(value);
    return copy;
  }

  #elements(list: readonly unknown[]): unknown[] {
    const copy: unknown[] = [];
    for (let at = 0; at < list.length; at++) {
      this.#names.push(String(at));
      if (at > 0) this.#count(1);
      copy.push(this.#value(list[at], String(at)) ?? null);
      this.#names.pop();
    }
    return copy;
  }

  #fields(object: object): Record<string, unknown> {
    // Without a prototype, because a field may be called `__proto__`.
    const copy = Object.create(null) as Record<string, unknown>;
    for (const name of Object.keys(object)) {
      this.#names.push(name);
      const value = this.#value((object as Record<string, unknown>)[name], name);
      if (value !== undefined) copy[this.#text(name)] = value;
      this.#names.pop();
    }
    return copy;
  }

  #text(text: string): string {
    this.#count(text.length + 2);
    const isRight = text.isWellFormed() || (this.#isPath() && text.replace(PATH_BYTES, "").isWellFormed());
    if (!isRight) throw refusal(this.#id, "invalid_job", halfAPair(this.#place()));
    return text;
  }

  #isPath(): boolean {
    const [first, second = "", ...deeper] = this.#names;
    return first === "config" && PATHS.has(second) && deeper.length === 0;
  }

  #count(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes > this.#limitBytes) throw tooLong(this.#id, this.#limitBytes);
  }

  #place(): string {
    return this.#names.map(clipped).join(".").toWellFormed();
  }

  #refusal(what: string): JobError {
    return refusal(this.#id, "invalid_job", `${this.#place()} ${what}, which JSON does not have`);
  }
}

/** The result of the value's `toJSON`, if it has one, as in `JSON.stringify`. */
function afterToJson(value: unknown, name: string): unknown {
  if (typeof value === "string" || value === undefined || value === null) return value;
  const { toJSON } = value as { toJSON?: unknown };
  return typeof toJSON === "function" ? toJSON.call(value, name) : value;
}

function unboxed(value: unknown): unknown {
  const isBoxed = value instanceof String || value instanceof Number || value instanceof Boolean;
  return isBoxed ? value.valueOf() : value;
}

/** Whether JSON would make an empty object, or an object of numbers, of what the value holds. */
function isOpaque(value: object): boolean {
  return (
    types.isMap(value) ||
    types.isSet(value) ||
    types.isPromise(value) ||
    types.isAnyArrayBuffer(value) ||
    types.isArrayBufferView(value)
  );
}

function refusal(id: string, code: ErrorCode, error: string, cause?: unknown): JobError {
  return JobError.local(id, code, error, cause === undefined ? undefined : { cause });
}

function tooLong(id: string, limitBytes: number): JobError {
  const error = `the job's line is longer than ${limitBytes} bytes; give paths instead of base64, or raise the limit`;
  return refusal(id, "line_too_long", error);
}

function halfAPair(place: string): string {
  return `${place} has half a surrogate pair, which UTF-8 cannot encode; do not cut strings within a character`;
}

function kindOf(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  return typeof value === "undefined" ? "undefined" : `a value of type ${typeof value}`;
}

function quoted(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(clipped(value)) : kindOf(value);
}

function clipped(text: string): string {
  return text.length > LONGEST_QUOTE ? `${text.slice(0, LONGEST_QUOTE)}…` : text;
}

function sentenceOf(error: unknown): string {
  return error instanceof Error ? error.message : kindOf(error);
}
