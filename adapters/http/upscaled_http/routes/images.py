"""Pictures for the bucket: the pipeline of docs/pipeline.md."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from upscaled_http.dependencies import CallerOf, ServiceOf
from upscaled_http.filing import FIELDS
from upscaled_http.messages import PipelineAnswer
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_http.routes.direct import DirectRoute
from upscaled_http.submission import form_fields

router = APIRouter(tags=["pipeline"], route_class=DirectRoute)


def _document() -> dict[str, Any]:
    file = {"type": "string", "format": "binary", "description": "The picture."}
    known = form_fields()
    fields = {"image": file, **{name: known[name] for name in FIELDS}}
    schema = {"type": "object", "required": ["image"], "properties": fields}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


@router.post(
    "/images/upload",
    response_class=Response,
    responses={
        200: {"model": PipelineAnswer, "description": "The picture is in one of the folders."}
    },
    openapi_extra=_document(),
)
async def upload(request: Request, service: ServiceOf, caller: CallerOf) -> Response:
    """Score one picture, upscale it if its score is low, and store it in the server's bucket."""
    if service.filing is None:
        raise ProblemError(
            HttpCode.NOT_FOUND,
            "This server has no bucket for pictures; set pipeline.bucket, or S3_BUCKET, as in "
            "s3://pictures.",
        )
    with await service.bodies.read(request, max_files=1) as body:
        filed = await service.filing.file(caller.owner, body)
    headers = {}
    if filed.sidecar_job is not None:
        request.state.job_id = filed.sidecar_job.job_id  # for the log
        headers["Location"] = f"/api/jobs/{filed.sidecar_job.job_id}"
    text = json.dumps(filed.result.fields, ensure_ascii=False)
    return Response(text, headers=headers, media_type="application/json")
