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
const SUFFIXES = new Set([".png", ".jpg", ".jpeg", ".webp"]);
const MIME_TYPES = new Set(["image/png", "image/jpeg", "image/webp"]);

/** The upload's name is the job's id: neither is the client's choice. */
export function uploadsInto({ uploadDir }: Settings): MulterModuleOptions {
  return {
    storage: diskStorage({
      destination: uploadDir,
      filename: (_request, _file, done) => done(null, randomUUID()),
    }),
    limits: { fileSize: LIMIT_BYTES, files: 1, fields: 20, fieldSize: 4096 },
    // Told by its name before a byte is stored.
    fileFilter: (_request, { originalname }, done) => {
      const isWelcome = SUFFIXES.has(extname(originalname).toLowerCase());
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
    if (type === undefined || !MIME_TYPES.has(type.mime)) throw notWelcome();
    return file;
  }
}

function notWelcome(): UnsupportedMediaTypeException {
  return new UnsupportedMediaTypeException("the image is no PNG, JPEG or WebP");
}
