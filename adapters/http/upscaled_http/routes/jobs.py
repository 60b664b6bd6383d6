"""Jobs: their state, their events, and their end."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from upscaled_http.dependencies import CallerOf, ServiceOf
from upscaled_http.events import LAST_ID, MEDIA_TYPE, job_events, owner_events
from upscaled_http.messages import Job
from upscaled_http.preferences import wait_of
from upscaled_http.presence import while_connected
from upscaled_http.routes.direct import WAIT_PARAMETERS, DirectRoute

router = APIRouter(tags=["jobs"], route_class=DirectRoute)

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-Sent Events.", "content": {MEDIA_TYPE: {}}}
}
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get(
    "/jobs/{job_id}",
    response_class=Response,
    responses={200: {"model": Job}},
    openapi_extra={"parameters": WAIT_PARAMETERS},
)
@router.get(
    "/status/{job_id}",
    response_class=Response,
    responses={200: {"model": Job}},
    openapi_extra={"parameters": WAIT_PARAMETERS},
)
async def job(request: Request, service: ServiceOf, caller: CallerOf, job_id: str) -> Response:
    """A job as it is now; with `wait`, at its end or after that time."""
    record = service.find(caller.owner, job_id)
    wait_s = wait_of(request, service.settings.server.max_wait_s)
    if wait_s is not None:
        await while_connected(request.receive, service.wait(record, wait_s))
    return Response(record.body(), media_type="application/json")


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={**_STREAM, 204: {"description": "The job's last event was read."}},
)
async def events(request: Request, service: ServiceOf, caller: CallerOf, job_id: str) -> Response:
    """`queued`, `progress`, and at last `completed`, `failed` or `cancelled`. The data is the
    job."""
    record = service.find(caller.owner, job_id)
    if record.has_ended and request.headers.get("last-event-id") == LAST_ID:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return StreamingResponse(
        job_events(service.watchers, record), headers=_STREAM_HEADERS, media_type=MEDIA_TYPE
    )


@router.get("/events", response_class=StreamingResponse, responses=_STREAM)
async def all_events(_request: Request, service: ServiceOf, caller: CallerOf) -> Response:
    """One stream for your jobs: `job` if one is open or changes, `removed` if it is deleted."""
    records = [
        record
        for record in service.jobs.records()
        if record.owner == caller.owner and not record.is_deleted
    ]
    return StreamingResponse(
        owner_events(service.watchers, caller.owner, records),
        headers=_STREAM_HEADERS,
        media_type=MEDIA_TYPE,
    )


@router.post(
    "/jobs/{job_id}/cancel",
    response_class=Response,
    responses={
        200: {"model": Job, "description": "The job has ended."},
        202: {"model": Job, "description": "The worker is asked to end the job."},
    },
)
async def cancel(_request: Request, service: ServiceOf, caller: CallerOf, job_id: str) -> Response:
    """Cancel a job. A job that has ended stays as it is."""
    record = service.cancel(caller.owner, job_id)
    status = HTTPStatus.OK if record.has_ended else HTTPStatus.ACCEPTED
    return Response(record.body(), status, media_type="application/json")


@router.delete("/jobs/{job_id}", status_code=204)
async def delete(_request: Request, service: ServiceOf, caller: CallerOf, job_id: str) -> Response:
    """Cancel a job if it runs, and remove its files and its record."""
    service.delete(caller.owner, job_id)
    return Response(status_code=HTTPStatus.NO_CONTENT)
