/** A job as a request: its fields and its picture as multipart/form-data, or as JSON if the picture is a URL. */

import { randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { basename } from "node:path";

import { JobError } from "../errors.js";
import type { Exchange } from "./connection.js";
import { osPath } from "./paths.js";

type Fields = Record<string, unknown>;

// The fields of a config that name the picture's origin and its destination.
const PLACES = new Set(["image_path", "image_base64", "image_url", "output_path", "output_base64"]);

// The server's limit of a job's label.
const LONGEST_LABEL = 100;

interface Picture {
  readonly name: string;
  readonly bytes: number;
  read(): AsyncIterable<Uint8Array>;
}

export class Submission {
  /** One job, however often the request is sent. */
  readonly #key = randomUUID();
  readonly #path: string;
  readonly #headers: Record<string, string>;
  readonly #body: () => AsyncIterable<Uint8Array>;
  #isSent = false;

  /** Throws `JobError` if there is no picture. `format`: of the output, if the config does not say. */
  static async of(job: Fields, isNamed: boolean, format: string | undefined): Promise<Submission> {
    const { job_id, method, config, type: _type, ...rest } = job;
    const id = String(job_id);
    const given = (config ?? {}) as Fields;
    const fields: Fields = { ...(format && { output_format: format }), ...rest };
    for (const [name, value] of Object.entries(given)) if (!PLACES.has(name)) fields[name] = value;
    for (const [name, value] of Object.entries(fields)) if (value === null) delete fields[name];
    if (isNamed && id.length <= LONGEST_LABEL) fields["label"] = id;
    if (given["image_url"] !== undefined) fields["image_url"] = given["image_url"];
    return new Submission(String(method), fields, await pictureOf(id, given));
  }

  private constructor(method: string, fields: Fields, picture: Picture | undefined) {
    this.#path = `/api/upscale/${encodeURIComponent(method)}`;
    if (picture === undefined) {
      const body = Buffer.from(JSON.stringify(fields));
      this.#headers = { "content-type": "application/json", "content-length": String(body.length) };
      this.#body = () => this.#pieces([body]);
      return;
    }
    const boundary = `upscaled-${randomUUID()}`;
    const head = Buffer.from(
      Object.entries(fields).map(([name, value]) => part(boundary, quoted(name)) + textOf(value) + "\r\n").join("") +
        part(boundary, `${quoted("image")}; filename=${quoted(picture.name)}`, "application/octet-stream"),
    );
    const tail = Buffer.from(`\r\n--${boundary}--\r\n`);
    this.#headers = {
      "content-type": `multipart/form-data; boundary=${boundary}`,
      "content-length": String(head.length + picture.bytes + tail.length),
    };
    this.#body = () => this.#pieces([head, picture.read(), tail]);
  }

  get path(): string {
    return this.#path;
  }

  /** Whether the server may have the whole of it, and so a job. */
  get isSent(): boolean {
    return this.#isSent;
  }

  /** `onRefused`: called with each refusal, after which the server has no job of it. */
  exchange(signal: AbortSignal, jobId: string, onRefused: () => void): Exchange {
    return {
      method: "POST",
      headers: { ...this.#headers, "idempotency-key": this.#key, accept: "application/json" },
      body: this.#body,
      signal,
      jobId,
      onRefused: () => {
        this.#isSent = false;
        onRefused();
      },
    };
  }

  async *#pieces(pieces: readonly (Uint8Array | AsyncIterable<Uint8Array>)[]): AsyncGenerator<Uint8Array, void, void> {
    for (const piece of pieces) {
      if (!(piece instanceof Uint8Array)) yield* piece;
      else {
        this.#isSent ||= piece === pieces.at(-1);
        yield piece;
      }
    }
  }
}

async function pictureOf(id: string, config: Fields): Promise<Picture | undefined> {
  const { image_path: path, image_base64: base64, image_url: url } = config;
  if (typeof path === "string") return fileOf(id, path);
  if (typeof base64 === "string") {
    // A data: URL has its bytes behind the comma.
    const text = base64.slice(base64.startsWith("data:") ? base64.indexOf(",") + 1 : 0);
    const bytes = Buffer.from(text, "base64");
    // `from` passes over what is no base64.
    if (bytes.length === 0 || bytes.toString("base64") !== text) {
      const sentence = "image_base64 is no base64: send the standard alphabet, padded, without line breaks";
      throw JobError.local(id, "input_unreadable", sentence);
    }
    return { name: "image", bytes: bytes.length, read: () => piecesOf(bytes) };
  }
  if (typeof url === "string") return undefined;
  // The server says what is missing.
  return undefined;
}

async function fileOf(id: string, path: string): Promise<Picture> {
  try {
    const file = await stat(osPath(path));
    if (!file.isFile()) throw JobError.local(id, "input_not_found", `${path} is no ordinary file`);
    return { name: basename(path), bytes: file.size, read: () => piecesOfFile(id, path, file.size) };
  } catch (error) {
    if (error instanceof JobError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") throw JobError.local(id, "input_not_found", `there is no file ${path}`, { cause: error });
    throw JobError.local(id, "input_unreadable", `the input cannot be read: ${message}`, { cause: error });
  }
}

/** So many bytes, as the request's head has said. */
async function* piecesOfFile(id: string, path: string, bytes: number): AsyncGenerator<Uint8Array, void, void> {
  let left = bytes;
  try {
    for await (const piece of createReadStream(osPath(path)) as AsyncIterable<Uint8Array>) {
      left -= piece.length;
      if (left < 0) break;
      yield piece;
    }
  } catch (error) {
    const { message } = error as Error;
    throw JobError.local(id, "input_unreadable", `the input cannot be read: ${message}`, { cause: error });
  }
  if (left !== 0) throw JobError.local(id, "input_unreadable", `${path} changed while it was sent: send it once it is whole`);
}

async function* piecesOf(bytes: Uint8Array): AsyncGenerator<Uint8Array, void, void> {
  yield bytes;
}

function part(boundary: string, name: string, type?: string): string {
  const typed = type === undefined ? "" : `content-type: ${type}\r\n`;
  return `--${boundary}\r\ncontent-disposition: form-data; name=${name}\r\n${typed}\r\n`;
}

/** As browsers write a name (WHATWG HTML, section 4.10.21.8). */
function quoted(name: string): string {
  const escaped = name.toWellFormed().replace(/\r/g, "%0D").replace(/\n/g, "%0A").replace(/"/g, "%22");
  return `"${escaped}"`;
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
