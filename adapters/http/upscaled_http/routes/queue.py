"""The queue in front of the machines, for those who add and take away machines."""

from __future__ import annotations

from fastapi import APIRouter

from upscaled_http.dependencies import SettingsOf
from upscaled_http.messages import QueueDepth
from upscaled_http.queuedepth import queue_depth

router = APIRouter(tags=["queue"])


@router.get("/queue/depth")
async def depth(settings: SettingsOf) -> dict[str, QueueDepth]:
    """What waits and runs, per method. 404 if the server has no queue."""
    counts = await queue_depth(settings)
    return {method: QueueDepth(**one) for method, one in counts.items()}
