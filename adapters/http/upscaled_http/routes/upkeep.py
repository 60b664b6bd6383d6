"""Statistics, and the removal of old results."""

from __future__ import annotations

from fastapi import APIRouter

from upscaled_http.dependencies import CallerOf, ServiceOf
from upscaled_http.messages import Cleanup, CleanupRequest, Stats

router = APIRouter(tags=["upkeep"])


@router.get("/stats")
async def stats(service: ServiceOf, caller: CallerOf) -> Stats:
    """Your jobs by method and outcome; the queue and the disk of the whole server."""
    return service.stats(caller.owner)


@router.post("/cleanup")
async def cleanup(request: CleanupRequest, service: ServiceOf, caller: CallerOf) -> Cleanup:
    """Remove the results of your jobs that ended at least this time ago. Their records stay."""
    return service.cleanup(caller.owner, request.older_than_s)
