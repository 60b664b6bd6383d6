"""Pictures for the bucket: the pipeline of docs/pipeline.md."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from upscaled_http.dependencies import CallerOf, ServiceOf
from upscaled_http.fields import form_fields
from upscaled_http.filer import FIELDS
from upscaled_http.filingqueue import FilingQueue
from upscaled_http.filings import Filing
from upscaled_http.messages import PictureBatch, PipelineAnswer, PipelineStats, Problem
from upscaled_http.preferences import refuse_parameters
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_http.routes.batches import MAX_PICTURES

router = APIRouter(tags=["pipeline"])


def _document() -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    images = {
        "oneOf": [file, {"type": "array", "items": file, "maxItems": MAX_PICTURES}],
        "description": "The picture, or several.",
    }
    known = form_fields()
    fields = {"image": images, **{name: known[name] for name in FIELDS}}
    schema = {"type": "object", "required": ["image"], "properties": fields}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


@router.post(
    "/images/upload",
    response_class=Response,
    responses={
        200: {"model": PipelineAnswer, "description": "The picture is in one of the folders."},
        202: {"model": PictureBatch, "description": "Of several pictures at least one is taken."},
    },
    openapi_extra=_document(),
)
async def upload(request: Request, service: ServiceOf, caller: CallerOf) -> Response:
    """Score a picture, upscale it if its score is low, and store it in the server's bucket. Several
    pictures are filed after the answer, which has the address of their batch."""
    refuse_parameters(request)
    filing = _filing(service)
    with await service.bodies.read(request, MAX_PICTURES) as body:
        if not body.uploads:
            raise ProblemError.field("image", "Give one or more pictures, each as a file `image`.")
        if len(body.uploads) > 1:
            batch = filing.accept(caller.owner, body)
            refused = [error.problem for error in batch.refused]
            answer = _batch(batch.batch_id, batch.filings, refused)
            headers = {"Location": answer.status_url, "Retry-After": "1"}
            return _json(answer.model_dump_json(), HTTPStatus.ACCEPTED, headers)
        filed, result = await filing.file(caller.owner, body)
    headers = {}
    if filed.job_id is not None:
        request.state.job_id = filed.job_id  # for the log
        headers["Location"] = f"/api/jobs/{filed.job_id}"
    return _json(json.dumps(result.fields, ensure_ascii=False), HTTPStatus.OK, headers)


@router.get(
    "/images/batches/{batch_id}",
    response_class=Response,
    responses={200: {"model": PictureBatch}},
)
async def batch(
    service: ServiceOf, caller: CallerOf, batch_id: Annotated[str, Path(max_length=64)]
) -> Response:
    """The pictures of a batch, in the order of the request."""
    filings = _filing(service).batch(caller.owner, batch_id)
    return _json(_batch(batch_id, filings, []).model_dump_json())


@router.get("/images", response_class=Response, responses={200: {"model": PipelineStats}})
async def stats(service: ServiceOf, caller: CallerOf) -> Response:
    """The folders, the scores and the success rate of your pictures. 404 if the server has no
    bucket."""
    return _json(_filing(service).stats(caller.owner).model_dump_json())


def _filing(service: ServiceOf) -> FilingQueue:
    if service.filing is None:
        raise ProblemError(
            HttpCode.NOT_FOUND,
            "This server has no bucket for pictures; set pipeline.bucket, or S3_BUCKET, as in "
            "s3://pictures.",
        )
    return service.filing


def _batch(batch_id: str, filings: list[Filing], refused: list[Problem]) -> PictureBatch:
    is_open = any(filing.finished_at is None for filing in filings)
    return PictureBatch(
        batch_id=batch_id,
        status="processing" if is_open else "finished",
        status_url=f"/api/images/batches/{batch_id}",
        pictures=[filing.body() for filing in filings],
        refused=refused,
    )


def _json(
    text: str, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    return Response(text, status, headers, media_type="application/json")
