/** The file on this machine to which a job's picture is written. It appears whole, by a rename. */

import { randomUUID } from "node:crypto";
import type { PathLike } from "node:fs";
import { link, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, extname, join } from "node:path";

import { JobError } from "../errors.js";
import type { Job } from "./api.js";
import { osPath } from "./paths.js";

type Fields = Record<string, unknown>;

const FORMATS: Readonly<Record<string, string>> = {
  ".png": "png",
  ".tif": "tiff",
  ".tiff": "tiff",
  ".jpg": "jpeg",
  ".jpeg": "jpeg",
  ".webp": "webp",
  ".avif": "avif",
};
const SUFFIXES: Readonly<Record<string, string>> = {
  "image/png": ".png",
  "image/tiff": ".tif",
  "image/jpeg": ".jpg",
  "image/webp": ".webp",
  "image/avif": ".avif",
};

export class Destination {
  readonly #id: string;
  readonly #input: string | undefined;
  readonly #output: string | undefined;
  // A job without a picture, as of a test partner, may have no result.
  readonly #hasInput: boolean;
  readonly isBase64: boolean;

  constructor(id: string, config: Fields) {
    const { image_path: input, output_path: output } = config;
    this.#id = id;
    this.#input = typeof input === "string" ? input : undefined;
    this.#output = typeof output === "string" ? output : undefined;
    this.#hasInput = [input, config["image_base64"], config["image_url"]].some((one) => one !== undefined && one !== null);
    this.isBase64 = config["output_base64"] === true;
    for (const name of ["image_path", "image_base64", "output_path"]) {
      if (config[name] === "") throw this.#refusal("invalid_job", `${name} is empty`);
    }
    if (`${this.#input}${this.#output}`.includes("\0")) throw this.#refusal("invalid_job", "a path holds a zero character");
  }

  /** The output's format by its suffix; undefined if no path is given. */
  get format(): string | undefined {
    if (this.#output === undefined) return undefined;
    // Any other suffix is no format: what is written is PNG then, as without a suffix.
    return FORMATS[extname(this.#output).toLowerCase()];
  }

  /** Throws `JobError` if the picture cannot be written there, before any work is done for it. */
  async check(isFormatGiven: boolean): Promise<void> {
    if (this.isBase64) return;
    const path = this.#output ?? this.#input;
    if (path === undefined) {
      if (!this.#hasInput) return;
      throw this.#refusal("invalid_job", "give output_path or output_base64, because an input that is no file has no folder");
    }
    const folder = await stat(osPath(dirname(path))).catch(() => undefined);
    if (!folder?.isDirectory()) throw this.#refusal("output_unwritable", `there is no folder ${dirname(path)}: make it first`);
    if (this.#output === undefined) return;
    const suffix = extname(path);
    if (!isFormatGiven && suffix !== "" && this.format === undefined) {
      const known = "use .png, .tif, .jpg, .webp or .avif, or give output_format";
      throw this.#refusal("unsupported_format", `${suffix} is not written here: ${known}`);
    }
    const [old, input] = await Promise.all([path, this.#input ?? ""].map((one) => stat(osPath(one)).catch(() => undefined)));
    if (old !== undefined && !old.isFile()) throw this.#refusal("output_unwritable", `${path} exists and is no ordinary file`);
    if (old !== undefined && old.ino === input?.ino && old.dev === input.dev) {
      throw this.#refusal("invalid_job", `the output ${path} is the input itself: give another output_path`);
    }
  }

  /** Whether a result is wanted. */
  get isThere(): boolean {
    return this.isBase64 || this.#output !== undefined || this.#hasInput;
  }

  /** Writes the file; its path. Throws `JobError`, and what the pieces throw. */
  async write(job: Job, pieces: AsyncIterable<Uint8Array>): Promise<string> {
    const target = this.#output ?? this.#named(job);
    const pending = join(dirname(target), `.upscaled-${randomUUID()}`);
    try {
      const file = await this.#unlessDiskFails(open(osPath(pending), "wx"));
      try {
        for await (const piece of pieces) await this.#unlessDiskFails(file.writeFile(piece));
      } finally {
        await file.close();
      }
      if (this.#output === undefined) return await this.#unlessDiskFails(renamedToFree(pending, target));
      await this.#unlessDiskFails(rename(osPath(pending), osPath(target)));
      return target;
    } finally {
      await rm(osPath(pending), { force: true });
    }
  }

  /** The daemon's own name for it, beside the input. */
  #named({ method, scale_factor, media_type }: Job): string {
    const input = this.#input ?? "";
    const factor = String(Number((scale_factor ?? 0).toFixed(2)));
    const suffix = SUFFIXES[media_type ?? ""] ?? ".png";
    return join(dirname(input), `${basename(input, extname(input))}_${method}_${factor}x${suffix}`);
  }

  async #unlessDiskFails<T>(done: Promise<T>): Promise<T> {
    return done.catch((error: unknown) => {
      const why = error instanceof Error ? error.message : String(error);
      throw JobError.local(this.#id, "output_unwritable", `the output cannot be written: ${why}`, { cause: error });
    });
  }

  #refusal(code: "invalid_job" | "output_unwritable" | "unsupported_format", sentence: string): JobError {
    return JobError.local(this.#id, code, sentence);
  }
}

/** Gives the file a name that no file has: photo.png, photo-2.png and so on. */
async function renamedToFree(pending: string, target: string): Promise<string> {
  const suffix = extname(target);
  for (let number = 1; ; number++) {
    const path = number === 1 ? target : `${target.slice(0, -suffix.length)}-${number}${suffix}`;
    try {
      await take(osPath(path), osPath(pending));
      return path;
    } catch (error) {
      if (!isTaken(error)) throw error;
    }
  }
}

/** Gives the file this name. Throws `EEXIST` if another file has it. */
async function take(path: PathLike, pending: PathLike): Promise<void> {
  try {
    await link(pending, path);
  } catch (error) {
    if (isTaken(error)) throw error;
    // A file system without links, such as FAT. Here alone the name is an empty file's for a moment.
    await (await open(path, "wx")).close();
    await rename(pending, path);
  }
}

function isTaken(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "EEXIST";
}
