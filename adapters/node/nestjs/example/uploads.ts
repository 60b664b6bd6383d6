/** Uploads: a random name in UPLOAD_DIR, 50 MB at most, and a picture by its content. */

import { randomUUID } from "node:crypto";
import { extname } from "node:path";

import { BadRequestException, Injectable, UnsupportedMediaTypeException } from "@nestjs/common";
import type { PipeTransform } from "@nestjs/common";
import type { MulterModuleOptions } from "@nestjs/platform-express";
import { fileTypeFromFile } from "file-type";
import { diskStorage } from "multer";

import type { Settings } from "./settings.js";

const LIMIT_BYTES = 50 * 1024 * 1024;
// What the daemon reads, but TGA, which has no signature. HEIC and JPEG XL need `upscaled[heic,jxl]` beside it.
export const KINDS = "PNG, JPEG, WebP, TIFF, AVIF, HEIC, JPEG XL, GIF or BMP";
const SUFFIXES: Record<string, string[]> = {
  "image/png": [".png"],
  "image/jpeg": [".jpg", ".jpeg"],
  "image/webp": [".webp"],
  "image/tiff": [".tif", ".tiff"],
  "image/avif": [".avif"],
  "image/heic": [".heic"],
  "image/heif": [".heif", ".hif"],
  "image/jxl": [".jxl"],
  "image/gif": [".gif"],
  "image/bmp": [".bmp"],
};
const ALL_SUFFIXES = new Set(Object.values(SUFFIXES).flat());

/** The upload's name is the job's id: neither is the client's choice. */
export function uploadsInto({ uploadDir }: Settings): MulterModuleOptions {
  return {
    storage: diskStorage({
      destination: uploadDir,
      filename: (_request, _file, done) => done(null, randomUUID()),
    }),
    limits: { fileSize: LIMIT_BYTES, files: 1, fields: 20, fieldSize: 4096 },
    // Refused by its name, before a byte is stored.
    fileFilter: (_request, { originalname }, done) => {
      const isWelcome = ALL_SUFFIXES.has(extname(originalname).toLowerCase());
      isWelcome ? done(null, true) : done(notWelcome(), false);
    },
  };
}

/** Lets pictures through. Of what a pipe refuses, Nest removes the stored file. */
@Injectable()
export class PicturePipe implements PipeTransform<Express.Multer.File | undefined> {
  async transform(file: Express.Multer.File | undefined): Promise<Express.Multer.File> {
    if (file === undefined) throw new BadRequestException("the field image has no file");
    const type = await fileTypeFromFile(file.path);
    if (type === undefined || !Object.hasOwn(SUFFIXES, type.mime)) throw notWelcome();
    return file;
  }
}

function notWelcome(): UnsupportedMediaTypeException {
  return new UnsupportedMediaTypeException(`the image is no ${KINDS}`);
}
