"""The server's health: for people and load balancers, and for probes."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Response

from upscaled_http.dependencies import CallerOf, ServiceOf, SettingsOf
from upscaled_http.messages import Health, Probe

router = APIRouter(tags=["health"])

_UNAVAILABLE = frozenset({"draining", "failed"})


@router.get("/health", responses={503: {"model": Health}}, response_model_exclude_none=True)
async def health(
    service: ServiceOf, settings: SettingsOf, caller: CallerOf, response: Response
) -> Health:
    """The queue, the workers and the limits. 503 while the server drains or has failed."""
    report = await service.health()
    if settings.auth.keys and caller.key_name is None:
        report = report.model_copy(update={"workers": None})
    if report.status in _UNAVAILABLE:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return report


@router.get("/health/live", responses={503: {"model": Probe}})
async def live(service: ServiceOf, response: Response) -> Probe:
    """200 while the server's daemon runs or is being started."""
    return _probe(service.is_live, response)


@router.get("/health/ready", responses={503: {"model": Probe}})
async def ready(service: ServiceOf, response: Response) -> Probe:
    """200 if a job that is submitted now starts now."""
    return _probe(service.is_ready, response)


def _probe(is_ok: bool, response: Response) -> Probe:
    if not is_ok:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Probe(ok=is_ok)
