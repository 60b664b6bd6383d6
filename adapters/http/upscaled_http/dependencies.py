"""What routes take as parameters: the service, the settings, and the caller."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple, Protocol, cast

from fastapi import Depends
from prometheus_client import Metric
from starlette.requests import Request

from upscaled_http.admission import Room
from upscaled_http.config import Settings
from upscaled_http.messages import Health
from upscaled_http.service import Service


class Caller(NamedTuple):
    """The sender of a request. Set by the access checks, before a route runs."""

    key_name: str | None  # None: no keys are set, or the route needs none and none was sent
    address: str

    @property
    def owner(self) -> str:
        """The owner of this caller's jobs. Without keys all callers are one owner."""
        return self.key_name or ""


class ServiceState(Room, Protocol):
    """What the application itself needs of the service; routes use all of `Service`."""

    async def start(self) -> None:
        """Open the stores and start the daemon. Returns before any worker is ready."""

    async def drain(self) -> None:
        """Take no more jobs, let running ones end within `grace_s`, end every stream. Every request
        but a submit is still answered."""

    async def stop(self) -> None:
        """Drain, if that was not done yet, and close the stores. The last call."""

    @property
    def is_live(self) -> bool:
        """True if a daemon runs or is being started."""

    @property
    def fault(self) -> str | None:
        """Why no daemon can ever run with these settings; None if one can."""

    @property
    def is_ready(self) -> bool:
        """True if a job that is submitted now starts now."""

    @property
    def idle_s(self) -> float:
        """Seconds without any job; 0 while there is one."""

    def reload(self) -> None:
        """Have the daemon replace its workers one by one."""

    async def measure(self) -> None:
        """Update what `collect` shows."""

    def collect(self) -> Iterator[Metric]:
        """The service's metrics."""

    async def health(self) -> Health:
        """The answer of `/api/health`, with the workers' rows."""


# Coroutines, because FastAPI would run plain functions in threads.
async def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


async def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def _caller(request: Request) -> Caller:
    return cast(Caller, request.state.caller)


ServiceOf = Annotated[Service, Depends(_service)]
SettingsOf = Annotated[Settings, Depends(_settings)]
CallerOf = Annotated[Caller, Depends(_caller)]
