const NEWLINE = 0x0a;

// A type, and an id of 128 characters with two escapes each, which takes 1538 bytes.
const HEAD_BYTES = 4096;

/**
 * Cuts bytes into lines of text. A line past the limit is dropped as it comes in, so that memory stays
 * bounded. At its end, the listener gets its beginning.
 */
export class LineSplitter {
  readonly #limitBytes: number;
  readonly #handleDropped: (head: string) => void;
  #begun: Buffer[] = [];
  #begunBytes = 0;
  // How the line began that is being dropped.
  #head: Buffer | undefined;

  constructor(limitBytes: number, handleDropped: (head: string) => void = () => {}) {
    this.#limitBytes = limitBytes;
    this.#handleDropped = handleDropped;
  }

  /** The lines that the chunk completes. */
  *feed(chunk: Buffer): Generator<string> {
    let start = 0;
    for (let end; (end = chunk.indexOf(NEWLINE, start)) !== -1; start = end + 1) {
      this.#begin(chunk.subarray(start, end));
      yield* this.end();
    }
    this.#begin(chunk.subarray(start));
  }

  /** The last line, which may lack its newline. */
  *end(): Generator<string> {
    const head = this.#head;
    // Decoded as a whole: a letter may be split between two chunks.
    const line = Buffer.concat(this.#begun).toString();
    this.#begun = [];
    this.#begunBytes = 0;
    this.#head = undefined;
    if (head !== undefined) this.#handleDropped(head.toString());
    else if (line.trim() !== "") yield line;
  }

  #begin(part: Buffer): void {
    this.#begunBytes += part.length;
    if (this.#head === undefined && part.length > 0) this.#begun.push(part);
    if (this.#begunBytes > this.#limitBytes) {
      this.#head ??= Buffer.concat(this.#begun, Math.min(HEAD_BYTES, this.#begunBytes));
      this.#begun = [];
    }
  }
}
