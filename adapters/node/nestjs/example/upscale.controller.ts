import {
  Body,
  Controller,
  Get,
  HttpCode,
  Inject,
  Param,
  ParseUUIDPipe,
  Post,
  UploadedFile,
  UseInterceptors,
  applyDecorators,
} from "@nestjs/common";
import { FileInterceptor } from "@nestjs/platform-express";
import {
  ApiAcceptedResponse,
  ApiBadRequestResponse,
  ApiConsumes,
  ApiNotFoundResponse,
  ApiOkResponse,
  ApiOperation,
  ApiPayloadTooLargeResponse,
  ApiTags,
  ApiUnsupportedMediaTypeResponse,
} from "@nestjs/swagger";

import { AcceptedDto, StatusDto } from "./answers.dto.js";
import { JobsService } from "./jobs.service.js";
import type { Method } from "./methods.js";
import { EsrganDto, FluxDto, ImagenDto } from "./upscale.dto.js";
import { KINDS, PicturePipe } from "./uploads.js";

/** `POST upscale/{method}` with the field `image`, answered with 202 and the job. */
const Upscale = (method: Method, summary: string): MethodDecorator =>
  applyDecorators(
    Post(`upscale/${method}`),
    HttpCode(202),
    ApiOperation({ summary }),
    UseInterceptors(FileInterceptor("image")),
    ApiConsumes("multipart/form-data"),
    ApiAcceptedResponse({ type: AcceptedDto }),
    ApiBadRequestResponse({ description: "A field is missing, unknown or out of range." }),
    ApiPayloadTooLargeResponse({ description: "The image has more than 50 MB." }),
    ApiUnsupportedMediaTypeResponse({ description: `The image is no ${KINDS}.` }),
  );

@ApiTags("upscale")
@Controller("api")
export class UpscaleController {
  constructor(@Inject(JobsService) private readonly jobs: JobsService) {}

  @Upscale("flux", "Enlarge a picture and redraw its details with FLUX.1-dev, which needs its weights and a GPU.")
  flux(@UploadedFile(PicturePipe) image: Express.Multer.File, @Body() dto: FluxDto): Promise<AcceptedDto> {
    return this.#accept("flux", image, dto);
  }

  @Upscale("esrgan", "Enlarge a picture with a Real-ESRGAN model; without any other field, four times.")
  esrgan(@UploadedFile(PicturePipe) image: Express.Multer.File, @Body() dto: EsrganDto): Promise<AcceptedDto> {
    return this.#accept("esrgan", image, dto);
  }

  @Upscale("imagen", "Enlarge a picture with Google's Imagen on Vertex AI, which needs an account.")
  imagen(@UploadedFile(PicturePipe) image: Express.Multer.File, @Body() dto: ImagenDto): Promise<AcceptedDto> {
    return this.#accept("imagen", image, dto);
  }

  @Get("status/:id")
  @ApiOperation({ summary: "How a job is; its result or its error once it has ended." })
  @ApiOkResponse({ type: StatusDto })
  @ApiNotFoundResponse()
  status(@Param("id", new ParseUUIDPipe({ errorHttpStatusCode: 404 })) id: string): Promise<StatusDto> {
    return this.jobs.status(id);
  }

  async #accept(
    method: Method,
    image: Express.Multer.File,
    dto: EsrganDto | FluxDto | ImagenDto,
  ): Promise<AcceptedDto> {
    const jobId = await this.jobs.enqueue(method, image, dto);
    return { job_id: jobId, method, status_url: `/api/status/${jobId}` };
  }
}
