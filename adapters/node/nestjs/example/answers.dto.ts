/** What the API answers, for Swagger and for clients. */

import { ApiProperty } from "@nestjs/swagger";
import { ERROR_CODES } from "upscaled";

import { METHODS } from "./methods.js";
import type { Method } from "./methods.js";

export const STATES = ["waiting", "prioritized", "delayed", "active", "completed", "failed"] as const;

export type State = (typeof STATES)[number];

export class AcceptedDto {
  @ApiProperty({ format: "uuid" }) readonly job_id!: string;
  @ApiProperty({ enum: METHODS }) readonly method!: Method;
  @ApiProperty({ example: "/api/status/7d3f…" }) readonly status_url!: string;
}

export class SizeDto {
  @ApiProperty() readonly width!: number;
  @ApiProperty() readonly height!: number;
}

export class CropInfoDto {
  @ApiProperty({ enum: ["vertical", "horizontal"] }) readonly direction!: string;
  @ApiProperty() readonly amount_px!: number;
  @ApiProperty({ required: false }) readonly amount_inches?: number;
}

export class ResultDto {
  @ApiProperty({ example: "/api/results/7d3f….png" }) readonly url!: string;
  @ApiProperty({ type: SizeDto, required: false }) readonly input_size?: SizeDto;
  @ApiProperty({ type: SizeDto, required: false }) readonly output_size?: SizeDto;
  @ApiProperty({ required: false }) readonly scale_factor?: number;
  @ApiProperty({ type: CropInfoDto, required: false }) readonly crop_info?: CropInfoDto;
  @ApiProperty({ description: "Seconds." }) readonly processing_time!: number;
  @ApiProperty({ required: false }) readonly model?: string;
  @ApiProperty({ required: false }) readonly device?: string;
  @ApiProperty({ type: [String] }) readonly warnings!: string[];
}

export class FailureDto {
  @ApiProperty({ enum: Object.keys(ERROR_CODES) }) readonly code!: string;
  @ApiProperty({ description: "Whether the same request may succeed later." }) readonly retryable!: boolean;
  @ApiProperty({ required: false, description: "What is wrong with the request." }) readonly error?: string;
}

export class StatusDto {
  @ApiProperty({ format: "uuid" }) readonly job_id!: string;
  @ApiProperty({ enum: METHODS }) readonly method!: Method;
  @ApiProperty({ enum: STATES }) readonly state!: string;
  @ApiProperty({ format: "date-time", description: "When it was uploaded." }) readonly created_at!: string;
  @ApiProperty({ description: "Percent." }) readonly progress!: number;
  @ApiProperty({ required: false, example: "tile" }) readonly stage?: string;
  @ApiProperty({ required: false, description: "Seconds to go." }) readonly eta_s?: number;
  @ApiProperty({ type: ResultDto, required: false }) readonly result?: ResultDto;
  @ApiProperty({ type: FailureDto, required: false }) readonly error?: FailureDto;
}

export class CancelledDto {
  @ApiProperty({ format: "uuid" }) readonly job_id!: string;
  @ApiProperty({ enum: METHODS }) readonly method!: Method;
  @ApiProperty({ enum: ["cancelled", "cancelling"], description: "A job that is `cancelling` ends as failed, with the code `cancelled`." })
  readonly state!: "cancelled" | "cancelling";
}
