"""Results."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from upscaled_http.dependencies import CallerOf, ServiceOf
from upscaled_http.results import ResultResponse

router = APIRouter(tags=["results"])

_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {"image/*": {}}},
    206: {"description": "The part that `Range` asked for.", "content": {"image/*": {}}},
    304: {"description": "The client has it: see `If-None-Match`."},
}


@router.get("/results/{name}", response_class=Response, responses=_PICTURE)
@router.get("/download/{name}", response_class=Response, responses=_PICTURE)
async def result(request: Request, service: ServiceOf, caller: CallerOf, name: str) -> Response:
    """The picture of a completed job. `name`: the job's id, with or without the file's suffix."""
    record = service.find(caller.owner, name.partition(".")[0])
    return ResultResponse.of(service, record, request, {})
