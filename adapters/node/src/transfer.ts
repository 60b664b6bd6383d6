/**
 * Pictures that are no files: bytes and streams of the caller's, which the daemon gets and gives back.
 *
 *     input ── at most 1 MiB: image_base64; else a temporary file: image_path ──> daemon
 *     output <── a temporary file: output_path ──────────────────────────────────── daemon
 *
 * The files are in a folder of the call, which is removed when the call ends.
 */

import { randomUUID } from "node:crypto";
import { createReadStream, rmSync } from "node:fs";
import { mkdir, open, readFile, rm } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { WritableStream } from "node:stream/web";

import { onAbort } from "./aborts.js";
import { JobError } from "./errors.js";
import type { Result } from "./protocol.js";

/** A picture's bytes: at once, or in pieces, as of a `Readable`, a web stream or a `Blob`'s `stream()`. */
export type JobInput = Uint8Array | AsyncIterable<Uint8Array>;

/** `"buffer"`: the picture's bytes come with the result. A stream gets them, and its end. */
export type JobOutput = "buffer" | Writable | WritableStream<Uint8Array>;

/** A result with the picture's bytes. */
export type BufferResult = Omit<Result, "output_path"> & { readonly output: Buffer };

// Up to this size a long line is faster than a file.
const INLINE_BYTES = 1024 * 1024;

const INPUT_FIELDS = ["image_path", "image_base64", "image_url"];
const OUTPUT_FIELDS = ["output_path", "output_base64"];

type Config = Record<string, unknown>;

// The folders of the calls that are open, for a host that exits meanwhile.
const folders = new Set<string>();
let isListening = false;

export interface TransferOptions {
  readonly input?: JobInput | undefined;
  readonly output?: JobOutput | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The calls of a client whose pictures are no files. */
export class Transfers {
  readonly #tempDir: string;
  // For each input that is being read, what stops that.
  readonly #reading = new Set<AbortController>();

  constructor(tempDir: string = tmpdir()) {
    this.#tempDir = resolve(tempDir);
  }

  /** Runs a job of this config. Throws what that throws, `JobError`, and what a stream or the disk throws. */
  async run(
    id: string,
    config: Config,
    options: TransferOptions,
    runJob: (config: Config) => Promise<Result>,
  ): Promise<Result | BufferResult> {
    const transfer = new Transfer(id, options, this.#tempDir);
    try {
      const prepared = await this.#prepare(transfer, config, options.signal);
      return await transfer.deliver(await runJob(prepared), options.signal);
    } finally {
      await transfer.remove();
    }
  }

  /** No input is read any further, because no job will be sent. */
  endReading(): void {
    for (const reading of this.#reading) reading.abort();
  }

  async #prepare(transfer: Transfer, config: Config, signal: AbortSignal | undefined): Promise<Config> {
    const reading = new AbortController();
    const stopListening = signal && onAbort(signal, () => reading.abort());
    this.#reading.add(reading);
    try {
      return await transfer.prepare(config, reading.signal);
    } finally {
      stopListening?.();
      this.#reading.delete(reading);
    }
  }
}

/** One call's bytes. */
class Transfer {
  readonly #id: string;
  readonly #input: JobInput | undefined;
  readonly #output: JobOutput | undefined;
  readonly #folder: string;
  #isMade = false;

  constructor(id: string, { input, output }: TransferOptions, tempDir: string) {
    this.#id = id;
    this.#input = input;
    this.#output = output;
    this.#folder = join(tempDir, `upscaled-${randomUUID()}`);
  }

  /** Reads the input; the config of a job that the daemon can run. */
  async prepare(config: Config, signal: AbortSignal): Promise<Config> {
    this.#check(config);
    const input = this.#input === undefined ? {} : await this.#read(this.#input, signal);
    if (this.#output === undefined) return { ...config, ...input };
    await this.#makeFolder();
    return { ...config, ...input, output_path: join(this.#folder, "output") };
  }

  /** Gives the picture to whom it is for. */
  async deliver(result: Result, signal: AbortSignal | undefined): Promise<Result | BufferResult> {
    if (this.#output === undefined) return result;
    const { output_path = "", ...rest } = result;
    const options = signal === undefined ? {} : { signal };
    if (this.#output === "buffer") return { ...rest, output: await readFile(output_path, options) };
    const output = this.#output as Writable;
    try {
      await pipeline(createReadStream(output_path), output, options);
    } catch (error) {
      // An HTTP response is closed after its end, and its close may abort the signal: the picture is there all the same.
      if (!output.writableFinished) throw error;
    }
    return rest;
  }

  /** Removes the files. A daemon that still writes the output finds no folder for it. */
  async remove(): Promise<void> {
    if (!this.#isMade) return;
    await rm(this.#folder, { recursive: true, force: true });
    folders.delete(this.#folder);
  }

  #check(config: Config): void {
    const given = (names: string[]): string | undefined => names.find((name) => config[name] !== undefined && config[name] !== null);
    const second = this.#input !== undefined && given(INPUT_FIELDS);
    if (second) throw this.#refusal(`input and config.${second} are two pictures: give one of them`);
    const other = given(OUTPUT_FIELDS);
    if (this.#output !== undefined && other) throw this.#refusal(`output and config.${other} are two places: give one of them`);
    if (this.#output === undefined && !other) throw this.#refusal("the input has no folder for the output: give output or config.output_path");
    if (this.#input !== undefined && !isInput(this.#input)) throw this.#refusal("input is no Uint8Array and no stream");
    if (this.#output !== undefined && !isOutput(this.#output)) throw this.#refusal('output is neither "buffer" nor a stream');
  }

  async #read(input: JobInput, signal: AbortSignal): Promise<Config> {
    const held: Uint8Array[] = [];
    let heldBytes = 0;
    let file: FileHandle | undefined;
    try {
      for await (const piece of piecesOf(input, signal)) {
        if (!(piece instanceof Uint8Array)) throw this.#refusal(`input gave a ${typeof piece} instead of a Uint8Array`);
        if (file === undefined && heldBytes + piece.length <= INLINE_BYTES) {
          held.push(piece);
          heldBytes += piece.length;
          continue;
        }
        file ??= await this.#openInput(held);
        await file.appendFile(piece);
      }
    } finally {
      await file?.close();
    }
    if (file === undefined && heldBytes === 0) throw JobError.local(this.#id, "input_unreadable", "the input is empty: it gave no bytes");
    if (file === undefined) return { image_base64: Buffer.concat(held).toString("base64") };
    return { image_path: join(this.#folder, "input") };
  }

  async #openInput(held: Uint8Array[]): Promise<FileHandle> {
    await this.#makeFolder();
    const file = await open(join(this.#folder, "input"), "wx", 0o600);
    await file.appendFile(Buffer.concat(held));
    return file;
  }

  async #makeFolder(): Promise<void> {
    if (this.#isMade) return;
    await mkdir(this.#folder, { mode: 0o700 });
    this.#isMade = true;
    folders.add(this.#folder);
    if (!isListening) process.on("exit", removeFolders);
    isListening = true;
  }

  #refusal(sentence: string): JobError {
    return JobError.local(this.#id, "invalid_job", sentence);
  }
}

/** The pieces of an input, until the signal aborts: an input that gives nothing is not waited for then. */
async function* piecesOf(input: JobInput, signal: AbortSignal): AsyncGenerator<Uint8Array, void, void> {
  if (input instanceof Uint8Array) return yield input;
  const iterator = input[Symbol.asyncIterator]();
  const aborted = new Promise<never>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
  aborted.catch(() => {}); // usually it comes after the last wait
  let isDone = false;
  try {
    for (;;) {
      const next = await Promise.race([iterator.next(), aborted]);
      isDone = next.done === true;
      if (next.done) return;
      yield next.value;
    }
  } finally {
    if (!isDone) {
      (input as Partial<Readable>).destroy?.();
      void Promise.resolve(iterator.return?.()).catch(() => {});
    }
  }
}

function removeFolders(): void {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
}

function isInput(value: unknown): boolean {
  return value instanceof Uint8Array || (typeof value === "object" && value !== null && Symbol.asyncIterator in value);
}

function isOutput(value: unknown): boolean {
  return value === "buffer" || (typeof value === "object" && value !== null && ("write" in value || "getWriter" in value));
}
