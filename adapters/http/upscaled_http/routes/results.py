"""Results: one picture, in several forms, or many as a zip."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from upscaled_http.archives import archive_of
from upscaled_http.dependencies import CallerOf, ServiceOf
from upscaled_http.messages import EncodedResult
from upscaled_http.preview import MEDIA_TYPE, SIDES, PreviewError
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_http.results import ResultResponse, check_result, encoded
from upscaled_http.routes.batches import MAX_PICTURES
from upscaled_protocol.errors import ErrorCode

router = APIRouter(tags=["results"])

_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "model": EncodedResult,
        "description": "The picture; with `encoding=base64`, JSON.",
        "content": {"image/*": {}, "application/octet-stream": {}},
    },
    206: {"description": "The part that `Range` asked for.", "content": {"image/*": {}}},
    304: {"description": "The client has it: see `If-None-Match`."},
}


@router.get(
    "/results.zip",
    response_class=StreamingResponse,
    responses={200: {"description": "A zip.", "content": {"application/zip": {}}}},
)
async def results(
    service: ServiceOf,
    caller: CallerOf,
    job_id: Annotated[list[str], Query(max_length=MAX_PICTURES)] = [],  # noqa: B006
    batch_id: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """The pictures of these jobs, or of a batch's jobs that are completed, as one zip."""
    if bool(job_id) == (batch_id is not None):
        raise ProblemError.field("job_id", "Give job_id, once or more, or batch_id.")
    if batch_id is not None:
        batch = service.batch(caller.owner, batch_id)
        records = [record for record in batch if record.file_name is not None]
        if not records and all(record.has_ended for record in batch):
            raise ProblemError(
                HttpCode.NOT_FOUND, "No job of this batch has a result: none is completed."
            )
        if not records:
            raise ProblemError(
                HttpCode.NOT_FINISHED, "No job of this batch has a result yet; ask again later."
            )
    else:
        records = [service.find(caller.owner, one) for one in dict.fromkeys(job_id)]
    return archive_of(service, records)


@router.get("/results/{name}", response_class=Response, responses=_PICTURE)
@router.get("/download/{name}", response_class=Response, responses=_PICTURE)
async def result(
    request: Request,
    service: ServiceOf,
    caller: CallerOf,
    name: str,
    *,
    encoding: Literal["base64"] | None = None,
    preview: Annotated[int | None, Query(description="Longest side of a small WebP.")] = None,
) -> Response:
    """The picture of a completed job. `name`: the job's id, with or without the file's suffix."""
    record = service.find(caller.owner, name.partition(".")[0])
    if preview is not None:
        if preview not in SIDES:
            sides = ", ".join(map(str, SIDES))
            raise ProblemError.field("preview", f"preview is one of {sides}.")
        file_name = check_result(record)
        try:
            path = await service.previews.path(file_name, preview)
            fd = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        except (PreviewError, OSError):
            raise ProblemError(
                ErrorCode.INPUT_UNREADABLE, "No preview can be made of this result."
            ) from None
        return ResultResponse(fd, MEDIA_TYPE, request, {})
    if encoding is not None:
        return encoded(service, record)
    return ResultResponse.of(service, record, request, {})
