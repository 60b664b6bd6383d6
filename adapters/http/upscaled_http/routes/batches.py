"""Several pictures at once."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from upscaled_http.dependencies import CallerOf, ServiceOf
from upscaled_http.messages import Batch, Problem
from upscaled_http.preferences import idempotency_key, refuse_parameters
from upscaled_http.problems import ProblemError
from upscaled_http.records import Record
from upscaled_http.routes.direct import IDEMPOTENCY_KEY
from upscaled_http.routes.forms import request_body

router = APIRouter(tags=["upscale"])

# As many results as one zip may hold.
MAX_PICTURES = 100


@router.post(
    "/batches",
    status_code=202,
    response_class=Response,
    responses={202: {"model": Batch, "description": "At least one picture is accepted."}},
    openapi_extra={"requestBody": request_body("images"), "parameters": [IDEMPOTENCY_KEY]},
)
async def submit(request: Request, service: ServiceOf, caller: CallerOf) -> Response:
    """Upscale several pictures in the same way: a form with one file `image` for each."""
    refuse_parameters(request)
    key = idempotency_key(request)
    with await service.bodies.read(request, MAX_PICTURES) as body:
        submission = service.reader.read(body.fields, None, is_text=body.is_text, has_upload=True)
        if not body.uploads:
            raise ProblemError.field("image", "Give one or more pictures, each as a file `image`.")
        batch = await service.submit_batch(caller.owner, submission, body.uploads, key=key)
    headers = {"Location": f"/api/batches/{batch.batch_id}", "Retry-After": "1"}
    if batch.is_replayed:
        headers["Idempotency-Replayed"] = "true"
    refused = [error.problem for error in batch.refused]
    return Response(
        _body(batch.batch_id, batch.records, refused),
        HTTPStatus.ACCEPTED,
        headers,
        "application/json",
    )


@router.get("/batches/{batch_id}", response_class=Response, responses={200: {"model": Batch}})
async def batch(
    service: ServiceOf, caller: CallerOf, batch_id: Annotated[str, Path(max_length=64)]
) -> Response:
    """The jobs of a batch, in the order of its pictures."""
    records = service.batch(caller.owner, batch_id)
    return Response(_body(batch_id, records, []), media_type="application/json")


def _body(batch_id: str, records: list[Record], refused: list[Problem]) -> str:
    return Batch(
        batch_id=batch_id,
        jobs=[record.job() for record in records],
        refused=refused,
        results_url=f"/api/results.zip?batch_id={batch_id}",
    ).model_dump_json(exclude_none=True)
