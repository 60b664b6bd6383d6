/** What a client may ask for. No field names a file: pictures come by upload, models by their name. */

import { applyDecorators } from "@nestjs/common";
import { ApiProperty } from "@nestjs/swagger";
import type { ApiPropertyOptions } from "@nestjs/swagger";
import { Transform, Type } from "class-transformer";
import {
  IsBoolean,
  IsIn,
  IsInt,
  IsNumber,
  IsOptional,
  IsPositive,
  IsString,
  Matches,
  Max,
  MaxLength,
  Min,
} from "class-validator";
import type { Crop, OutputFormat } from "upscaled";

import { STATES } from "./answers.dto.js";
import type { State } from "./answers.dto.js";
import { KINDS } from "./uploads.js";

// A name of the catalogue; a slash or a backslash would make it a path.
const MODEL_NAME = /^[\w-][\w.-]{0,99}$/;
const FORMATS: OutputFormat[] = ["png", "tiff", "jpeg", "webp", "avif"];
const CROPS: Crop[] = [
  ...(["none", "center", "top", "bottom", "left", "right"] as const),
  ...(["top-left", "top-right", "bottom-left", "bottom-right"] as const),
];

/** A field that may be left out. Swagger's form opens with its example: without one it would make a value up. */
const Optional = (options: ApiPropertyOptions): PropertyDecorator =>
  applyDecorators(ApiProperty({ required: false, example: "", ...options } as ApiPropertyOptions), IsOptional());

abstract class UpscaleDto {
  @ApiProperty({ type: "string", format: "binary", description: `${KINDS}, 50 MB at most.` })
  readonly image!: unknown; // for Swagger; the file comes beside the fields

  @Optional({ enum: FORMATS, description: "Default: png." })
  @IsIn(FORMATS)
  readonly output_format?: OutputFormat;

  @Optional({ minimum: 1, maximum: 100, description: "Of JPEG, WebP and AVIF." })
  @Type(() => Number)
  @IsInt()
  @Min(1)
  @Max(100)
  readonly quality?: number;

  @Optional({ description: "Dots per inch of the print. Default: DEFAULT_DPI." })
  @Type(() => Number)
  @IsInt()
  @IsPositive()
  readonly target_dpi?: number;

  @Optional({ description: "Width of the print; not beside target_width." })
  @Type(() => Number)
  @IsNumber()
  @IsPositive()
  readonly target_width_inches?: number;

  @Optional({ description: "Height of the print; not beside target_height." })
  @Type(() => Number)
  @IsNumber()
  @IsPositive()
  readonly target_height_inches?: number;

  @Optional({ description: "Pixels." })
  @Type(() => Number)
  @IsInt()
  @IsPositive()
  readonly target_width?: number;

  @Optional({ description: "Pixels." })
  @Type(() => Number)
  @IsInt()
  @IsPositive()
  readonly target_height?: number;

  @Optional({ enum: CROPS, description: "What of the picture is kept if the target has another shape. Default: none." })
  @IsIn(CROPS)
  readonly crop?: Crop;

  @Optional({ description: "Pixels per side of a tile. Default: by the memory that is free." })
  @Type(() => Number)
  @IsInt()
  @IsPositive()
  readonly tile_size?: number;
}

abstract class FactorDto extends UpscaleDto {
  @Optional({ minimum: 1, maximum: 16, description: "Default: DEFAULT_UPSCALE_FACTOR, or 4." })
  @Type(() => Number)
  @IsNumber()
  @Min(1)
  @Max(16)
  readonly upscale_factor?: number;

  @Optional({ description: "What enlarges the picture: a name that `upscaled models list` shows." })
  @Matches(MODEL_NAME)
  readonly upscale_model?: string;

  @Optional({ description: "A model of scale 1, such as a denoiser, that the picture passes first." })
  @Matches(MODEL_NAME)
  readonly pre_model?: string;
}

export class EsrganDto extends FactorDto {
  @Optional({ description: "The same as upscale_model. Default: auto." })
  @Matches(MODEL_NAME)
  readonly model?: string;

  @Optional({ description: "Half precision, if the device has it. Default: true." })
  @Transform(({ value }) => (value === "true" ? true : value === "false" ? false : value))
  @IsBoolean()
  readonly use_fp16?: boolean;
}

export class FluxDto extends FactorDto {
  @Optional({ minimum: 0, maximum: 1, description: "How much is redrawn. Default: 0.2." })
  @Type(() => Number)
  @IsNumber()
  @Min(0)
  @Max(1)
  readonly denoise?: number;

  @Optional({ minimum: 1, maximum: 100, description: "Default: 20." })
  @Type(() => Number)
  @IsInt()
  @Min(1)
  @Max(100)
  readonly steps?: number;

  @Optional({ description: "What the picture shows." })
  @IsString()
  @MaxLength(2000)
  readonly prompt?: string;

  @Optional({ minimum: 0, description: "The same seed gives the same picture." })
  @Type(() => Number)
  @IsInt()
  @Min(0)
  readonly seed?: number;
}

export class ImagenDto extends UpscaleDto {
  @Optional({ enum: ["x2", "x3", "x4"], description: "Default: x4." })
  @IsIn(["x2", "x3", "x4"])
  readonly upscale_factor?: "x2" | "x3" | "x4";

  @Optional({ description: "Default: GCP_PROJECT_ID." })
  @Matches(/^[a-z][a-z0-9-]{4,28}[a-z0-9]$/)
  readonly gcp_project_id?: string;

  // A part of the service's host name, which gets our credentials.
  @Optional({ description: "Default: GCP_REGION or us-central1." })
  @Matches(/^[a-z]+-[a-z]+\d{1,2}$/)
  readonly gcp_region?: string;
}

export class JobsQueryDto {
  @Optional({ enum: STATES })
  @IsIn(STATES)
  readonly state?: State;

  @Optional({ minimum: 1, maximum: 100, description: "Default: 20." })
  @Type(() => Number)
  @IsInt()
  @Min(1)
  @Max(100)
  readonly limit: number = 20;
}
