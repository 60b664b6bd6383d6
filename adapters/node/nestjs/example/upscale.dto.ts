/** What a client may ask for. No field names a file: pictures come by upload, models by their name. */

import { ApiProperty } from "@nestjs/swagger";
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

// A name of the catalogue; a slash or a backslash would make it a path.
const MODEL_NAME = /^[\w-][\w.-]{0,99}$/;
const FORMATS: OutputFormat[] = ["png", "tiff", "jpeg", "webp", "avif"];
const CROPS: Crop[] = [
  ...(["none", "center", "top", "bottom", "left", "right"] as const),
  ...(["top-left", "top-right", "bottom-left", "bottom-right"] as const),
];

abstract class UpscaleDto {
  @ApiProperty({ type: "string", format: "binary", description: "PNG, JPEG or WebP, 50 MB at most." })
  readonly image!: unknown; // for Swagger; the file comes beside the fields

  @ApiProperty({ required: false, enum: FORMATS, default: "png" })
  @IsOptional()
  @IsIn(FORMATS)
  readonly output_format?: OutputFormat;

  @ApiProperty({ required: false, minimum: 1, maximum: 100 })
  @IsOptional()
  @Type(() => Number)
  @IsInt()
  @Min(1)
  @Max(100)
  readonly quality?: number;

  @ApiProperty({ required: false, description: "Dots an inch of the print." })
  @IsOptional()
  @Type(() => Number)
  @IsInt()
  @IsPositive()
  readonly target_dpi?: number;

  @ApiProperty({ required: false, description: "Print width; not beside target_width." })
  @IsOptional()
  @Type(() => Number)
  @IsNumber()
  @IsPositive()
  readonly target_width_inches?: number;

  @ApiProperty({ required: false })
  @IsOptional()
  @Type(() => Number)
  @IsNumber()
  @IsPositive()
  readonly target_height_inches?: number;

  @ApiProperty({ required: false, description: "Pixels." })
  @IsOptional()
  @Type(() => Number)
  @IsInt()
  @IsPositive()
  readonly target_width?: number;

  @ApiProperty({ required: false, description: "Pixels." })
  @IsOptional()
  @Type(() => Number)
  @IsInt()
  @IsPositive()
  readonly target_height?: number;

  @ApiProperty({ required: false, enum: CROPS, default: "none" })
  @IsOptional()
  @IsIn(CROPS)
  readonly crop?: Crop;

  @ApiProperty({ required: false, description: "Pixels a tile side." })
  @IsOptional()
  @Type(() => Number)
  @IsInt()
  @IsPositive()
  readonly tile_size?: number;
}

abstract class FactorDto extends UpscaleDto {
  @ApiProperty({ required: false, minimum: 1, maximum: 16, default: 4 })
  @IsOptional()
  @Type(() => Number)
  @IsNumber()
  @Min(1)
  @Max(16)
  readonly upscale_factor?: number;

  @ApiProperty({ required: false, example: "4x-UltraSharp" })
  @IsOptional()
  @Matches(MODEL_NAME)
  readonly upscale_model?: string;
}

export class EsrganDto extends FactorDto {
  @ApiProperty({ required: false, example: "compact-x4" })
  @IsOptional()
  @Matches(MODEL_NAME)
  readonly model?: string;

  @ApiProperty({ required: false, default: true })
  @IsOptional()
  @Transform(({ value }) => (value === "true" ? true : value === "false" ? false : value))
  @IsBoolean()
  readonly use_fp16?: boolean;
}

export class FluxDto extends FactorDto {
  @ApiProperty({ required: false, minimum: 0, maximum: 1, default: 0.2 })
  @IsOptional()
  @Type(() => Number)
  @IsNumber()
  @Min(0)
  @Max(1)
  readonly denoise?: number;

  @ApiProperty({ required: false, minimum: 1, maximum: 100, default: 20 })
  @IsOptional()
  @Type(() => Number)
  @IsInt()
  @Min(1)
  @Max(100)
  readonly steps?: number;

  @ApiProperty({ required: false })
  @IsOptional()
  @IsString()
  @MaxLength(2000)
  readonly prompt?: string;

  @ApiProperty({ required: false, minimum: 0 })
  @IsOptional()
  @Type(() => Number)
  @IsInt()
  @Min(0)
  readonly seed?: number;
}

export class ImagenDto extends UpscaleDto {
  @ApiProperty({ required: false, enum: ["x2", "x3", "x4"], default: "x4" })
  @IsOptional()
  @IsIn(["x2", "x3", "x4"])
  readonly upscale_factor?: "x2" | "x3" | "x4";

  @ApiProperty({ required: false, description: "Default: GCP_PROJECT_ID." })
  @IsOptional()
  @Matches(/^[a-z][a-z0-9-]{4,28}[a-z0-9]$/)
  readonly gcp_project_id?: string;

  // A part of the service's host name, which gets our credentials.
  @ApiProperty({ required: false, description: "Default: GCP_REGION or us-central1." })
  @IsOptional()
  @Matches(/^[a-z]+-[a-z]+\d{1,2}$/)
  readonly gcp_region?: string;
}
