"""The submit of one picture."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from upscaled_http.dependencies import CallerOf, ServiceOf
from upscaled_http.messages import Job
from upscaled_http.preferences import (
    idempotency_key,
    refuse_parameters,
    wait_of,
    wants_picture,
)
from upscaled_http.presence import while_connected
from upscaled_http.problems import ProblemError, field_errors, sentence_of
from upscaled_http.records import Record
from upscaled_http.results import ResultResponse
from upscaled_http.routes.direct import IDEMPOTENCY_KEY, WAIT_PARAMETERS, DirectRoute
from upscaled_http.routes.forms import request_body
from upscaled_protocol.errors import ErrorCode

router = APIRouter(tags=["upscale"], route_class=DirectRoute)

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Job,
        "description": "With `wait`: the job, completed; or its picture, if `Accept` asks for one. "
        "`Accept: image/jpeg` chooses that format, if `output_format` names none.",
        "content": {"image/*": {}},
    },
    202: {"model": Job, "description": "The job is accepted."},
}

_DOCUMENT = {
    "requestBody": request_body("image"),
    "parameters": [
        *WAIT_PARAMETERS,
        IDEMPOTENCY_KEY,
    ],
}


@router.post(
    "/upscale",
    status_code=202,
    response_class=Response,
    responses=_RESPONSES,
    openapi_extra=_DOCUMENT,
)
async def upscale(request: Request, service: ServiceOf, caller: CallerOf) -> Response:
    """Upscale one picture: a file `image` in a form, or JSON with `image_url` or `image_base64`."""
    return await _submit(request, service, caller, None)


@router.post(
    "/upscale/{method}",
    status_code=202,
    response_class=Response,
    responses=_RESPONSES,
    openapi_extra=_DOCUMENT,
)
async def upscale_with(
    request: Request, service: ServiceOf, caller: CallerOf, method: str
) -> Response:
    """Upscale one picture with this method."""
    return await _submit(request, service, caller, method)


@router.post(
    "/face-enhance",
    status_code=202,
    response_class=Response,
    responses=_RESPONSES,
    openapi_extra=_DOCUMENT,
)
async def enhance_faces(request: Request, service: ServiceOf, caller: CallerOf) -> Response:
    """Restore the faces of one picture: the method `face`."""
    return await _submit(request, service, caller, "face")


async def _submit(
    request: Request, service: ServiceOf, caller: CallerOf, method: str | None
) -> Response:
    refuse_parameters(request, "wait")
    wait_s = wait_of(request, service.settings.server.max_wait_s)
    key = idempotency_key(request)
    accept = request.headers["accept"] if wait_s is not None and wants_picture(request) else None
    with await service.bodies.read(request, max_files=1) as body:
        upload = body.uploads[0] if body.uploads else None
        submission = service.reader.read(
            body.fields,
            method,
            is_text=body.is_text,
            has_upload=upload is not None,
            accept=accept,
        )
        submitted = await service.submit(caller.owner, submission, upload, key=key)
    record = submitted.record
    request.state.job_id = record.job_id  # for the log
    headers = {"Idempotency-Replayed": "true"} if submitted.is_replayed else {}
    if wait_s is not None and await while_connected(request.receive, service.wait(record, wait_s)):
        return _ended(request, service, record, headers)
    return accepted(record, headers)


def accepted(record: Record, headers: dict[str, str]) -> Response:
    """The answer to a job that has not ended."""
    return Response(
        record.body(),
        HTTPStatus.ACCEPTED,
        {
            **headers,
            "Location": f"/api/jobs/{record.job_id}",
            "Retry-After": str(max(1, round(record.eta_s or 1))),
        },
        "application/json",
    )


def _ended(
    request: Request, service: ServiceOf, record: Record, headers: dict[str, str]
) -> Response:
    headers = {**headers, "Location": f"/api/jobs/{record.job_id}"}
    if record.status != "completed":
        raise problem_of(record, headers)
    if wants_picture(request) and record.file_name is not None:
        return ResultResponse.of(service, record, request, headers)
    return Response(record.body(), HTTPStatus.OK, headers, "application/json")


def problem_of(record: Record, headers: dict[str, str]) -> ProblemError:
    """The failure of a job, as the answer to the request that waited for it."""
    try:
        code = ErrorCode(record.outcome.get("code", ""))
    except ValueError:
        code = ErrorCode.INTERNAL
    detail = sentence_of(record.outcome["error"])
    return ProblemError(
        code,
        detail,
        errors=field_errors(detail),
        job_id=record.job_id,
        retryable=record.outcome.get("retryable") is True,
        headers=headers,
    )
