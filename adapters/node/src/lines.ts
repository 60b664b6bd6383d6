const NEWLINE = 0x0a;

/**
 * Cuts bytes into lines of text. A line past the limit is dropped as it comes in, so that memory stays
 * bounded.
 */
export class LineSplitter {
  readonly #limitBytes: number;
  #begun: Buffer[] = [];
  #begunBytes = 0;
  #dropping = false;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
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
    // Decoded as a whole: a letter may be split between two chunks.
    const line = this.#dropping ? "" : Buffer.concat(this.#begun).toString();
    this.#begun = [];
    this.#begunBytes = 0;
    this.#dropping = false;
    if (line.trim() !== "") yield line;
  }

  #begin(part: Buffer): void {
    this.#begunBytes += part.length;
    if (this.#begunBytes > this.#limitBytes) {
      this.#dropping = true;
      this.#begun = [];
    }
    if (!this.#dropping && part.length > 0) this.#begun.push(part);
  }
}
