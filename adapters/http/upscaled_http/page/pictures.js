// A file's kind by its first bytes, its size in pixels, and a thumbnail.

const THUMBNAIL_SIDE = 480;

/** The kind of picture, such as `png`; null if no server knows it. */
export async function kindOf(file) {
  const head = new Uint8Array(await file.slice(0, 32).arrayBuffer());
  const text = String.fromCharCode(...head);
  if (text.startsWith("\x89PNG\r\n\x1a\n")) return "png";
  if (text.startsWith("\xff\xd8\xff")) return "jpeg";
  if (text.startsWith("RIFF") && text.slice(8, 12) === "WEBP") return "webp";
  if (/^(II[*+]\0|MM\0[*+])/.test(text)) return "tiff";
  if (text.slice(4, 8) === "ftyp") return /avi[fs]/.test(text.slice(8)) ? "avif" : "heic";
  // The server may read other kinds: it decides.
  const others = { GIF8: "gif", BM: "bmp", "\xff\x0a": "jxl", "\0\0\0\x0cJXL ": "jxl" };
  return Object.entries(others).find(([start]) => text.startsWith(start))?.[1] ?? null;
}

/** `{size, thumbnail}`, each null if this browser cannot read the picture. */
export async function measure(file, kind) {
  try {
    const bitmap = await createImageBitmap(file);
    const size = { width: bitmap.width, height: bitmap.height };
    const thumbnail = await shrink(bitmap);
    bitmap.close();
    return { size, thumbnail };
  } catch {
    return { size: kind === "tiff" ? await tiffSize(file) : null, thumbnail: null };
  }
}

async function shrink(bitmap) {
  const scale = Math.min(1, THUMBNAIL_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.85));
}

/** Width and height of the first page (TIFF 6.0, and BigTIFF), or null. */
export async function tiffSize(file) {
  try {
    const read = async (start, length) => new DataView(await file.slice(start, start + length).arrayBuffer());
    const head = await read(0, 16);
    const little = head.getUint8(0) === 0x49;
    const isBig = head.getUint16(2, little) === 43;
    const long = (view, at) => (isBig ? Number(view.getBigUint64(at, little)) : view.getUint32(at, little));
    const start = long(head, isBig ? 8 : 4);
    const counted = await read(start, 8);
    const entries = isBig ? long(counted, 0) : counted.getUint16(0, little);
    const entrySize = isBig ? 20 : 12;
    const directory = await read(start + (isBig ? 8 : 2), entries * entrySize);
    const tags = new Map();
    for (let at = 0; at + entrySize <= directory.byteLength; at += entrySize) {
      const isShort = directory.getUint16(at + 2, little) === 3;
      const value = at + (isBig ? 12 : 8);
      tags.set(
        directory.getUint16(at, little),
        isShort ? directory.getUint16(value, little) : directory.getUint32(value, little),
      );
    }
    const [width, height, orientation] = [tags.get(256), tags.get(257), tags.get(274) ?? 1];
    if (!width || !height) return null;
    return orientation >= 5 ? { width: height, height: width } : { width, height };
  } catch {
    return null;
  }
}
