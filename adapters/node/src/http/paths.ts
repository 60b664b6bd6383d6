/** File names that may be no UTF-8. */

/** The path for the calls of `node:fs`: in ours, U+DC80 to U+DCFF stand for bytes that are no UTF-8. */
export function osPath(path: string): string | Buffer {
  // With `u`, half a pair is found only if it stands alone.
  const [begin = "", ...pieces] = path.split(/([\udc80-\udcff])/u);
  if (pieces.length === 0) return path;
  const bytes = pieces.map((piece, index) => (index % 2 === 0 ? Buffer.of(piece.charCodeAt(0) & 0xff) : Buffer.from(piece)));
  return Buffer.concat([Buffer.from(begin), ...bytes]);
}
