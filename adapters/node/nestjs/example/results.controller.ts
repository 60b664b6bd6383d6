import { Controller, Get, Inject, NotFoundException, Param, Res } from "@nestjs/common";
import { ApiNotFoundResponse, ApiOkResponse, ApiOperation, ApiTags } from "@nestjs/swagger";
import type { Response } from "express";

import { Settings } from "./settings.js";

// What jobs are given for a name, and nothing else that may lie in OUTPUT_DIR.
const RESULT = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(png|tiff|jpeg|webp|avif)$/;

@ApiTags("upscale")
@Controller("api/results")
export class ResultsController {
  constructor(@Inject(Settings) private readonly settings: Settings) {}

  @Get(":file")
  @ApiOperation({ summary: "The picture that a job's result names." })
  @ApiOkResponse({ description: "The picture.", content: { "image/*": {} } })
  @ApiNotFoundResponse()
  async download(@Param("file") file: string, @Res() response: Response): Promise<void> {
    if (!RESULT.test(file)) throw new NotFoundException();
    await new Promise<void>((resolve, reject) => {
      response.sendFile(file, { root: this.settings.outputDir }, (error) => {
        // With the headers sent, it is the client that has gone.
        error && !response.headersSent ? reject(new NotFoundException()) : resolve();
      });
    });
  }
}
