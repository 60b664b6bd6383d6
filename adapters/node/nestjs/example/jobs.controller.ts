import { Controller, Delete, Get, HttpCode, Inject, Param, ParseUUIDPipe, Query } from "@nestjs/common";
import {
  ApiAcceptedResponse,
  ApiConflictResponse,
  ApiNotFoundResponse,
  ApiOkResponse,
  ApiOperation,
  ApiTags,
} from "@nestjs/swagger";

import { CancelledDto, StatusDto } from "./answers.dto.js";
import { JobsService } from "./jobs.service.js";
import { JobsQueryDto } from "./upscale.dto.js";

@ApiTags("jobs")
@Controller("api/jobs")
export class JobsController {
  constructor(@Inject(JobsService) private readonly jobs: JobsService) {}

  @Get()
  @ApiOperation({ summary: "The jobs of the last day, the newest first." })
  @ApiOkResponse({ type: [StatusDto] })
  list(@Query() { state, limit }: JobsQueryDto): Promise<StatusDto[]> {
    return this.jobs.list(state, limit);
  }

  @Delete(":id")
  @HttpCode(202)
  @ApiOperation({ summary: "Cancel a job: one that waits is removed; one that runs ends within a tile or a step, as failed." })
  @ApiAcceptedResponse({ type: CancelledDto })
  @ApiNotFoundResponse({ description: "There is no such job." })
  @ApiConflictResponse({ description: "The job has ended." })
  cancel(@Param("id", new ParseUUIDPipe({ errorHttpStatusCode: 404 })) id: string): Promise<CancelledDto> {
    return this.jobs.cancel(id);
  }
}
