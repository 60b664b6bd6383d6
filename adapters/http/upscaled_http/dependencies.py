"""What routes take as parameters: the service, the settings, and who asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple, Protocol, cast

from fastapi import Depends
from prometheus_client import Metric
from starlette.requests import Request

from upscaled_http.config import Settings
from upscaled_http.messages import Health
from upscaled_http.service import Service


class Caller(NamedTuple):
    """Who asks. Set by the access checks, before a route runs."""

    key_name: str | None  # None: no keys are set, or the route needs none and none was sent
    address: str

    @property
    def owner(self) -> str:
        """What a job of this caller is recorded under. Without keys all callers are one."""
        return self.key_name or ""


class ServiceState(Protocol):
    """What the application itself asks of the service; routes use all of `Service`."""

    async def start(self) -> None:
        """Open the stores and start the daemon. Returns before any worker is ready."""

    async def drain(self) -> None:
        """Take no more jobs, let running ones end within `grace_s`, end every stream. Everything
        but a submit is still answered."""

    async def stop(self) -> None:
        """Drain, if that was not done yet, and close the stores. No request comes after it."""

    @property
    def is_draining(self) -> bool:
        """No more jobs are taken, because the server stops."""

    @property
    def is_queue_full(self) -> bool:
        """`limits.max_queue` jobs have not ended."""

    @property
    def is_disk_full(self) -> bool:
        """Less than `storage.min_free_mb` is free."""

    @property
    def is_live(self) -> bool:
        """A daemon lives or is being started."""

    @property
    def is_ready(self) -> bool:
        """A job that is submitted now starts now."""

    @property
    def idle_s(self) -> float:
        """Seconds without any job; 0 while there is one."""

    def reload(self) -> None:
        """Have the daemon replace its workers one by one."""

    async def measure(self) -> None:
        """Look at what `collect` is to show."""

    def collect(self) -> Iterator[Metric]:
        """What the service adds to the metrics."""

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
