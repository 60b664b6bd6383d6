"""The list of jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from upscaled_http.dependencies import CallerOf, ServiceOf
from upscaled_http.messages import JobList, JobStatus
from upscaled_http.registry import Page

router = APIRouter(tags=["jobs"])


@router.get("/jobs", response_class=Response, responses={200: {"model": JobList}})
async def jobs(
    service: ServiceOf,
    caller: CallerOf,
    *,
    status: JobStatus | None = None,
    label: Annotated[str | None, Query(max_length=100)] = None,
    batch_id: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Your jobs, the newest first. `before`: the `next` of the last page."""
    page = Page(caller.owner, status, label, batch_id, before, limit + 1)
    records = service.page(page)
    has_more = len(records) > limit
    shown = records[:limit]
    body = JobList(
        jobs=[record.job() for record in shown], next=shown[-1].job_id if has_more else None
    )
    return Response(body.model_dump_json(exclude_none=True), media_type="application/json")
