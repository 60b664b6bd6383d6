"""The sidecar's server with a real daemon, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import uvicorn

from upscaled_http.app import create_app
from upscaled_http.config import Settings
from upscaled_http.service import Service

_START_S = 60.0

T = TypeVar("T")


class RunningServe:
    """A server that answers. `client` asks it; `service` is the object behind its routes."""

    def __init__(self, service: Service, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self._loop = loop
        self.url = url
        self.client = httpx2.Client(base_url=url, timeout=60, trust_env=False)

    def run(self, call: Callable[[], T]) -> T:
        """Call it in the server's event loop, because its stores belong to that thread."""

        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)

    def submit(self, target: str = "/api/upscale/fake", **fields: Any) -> dict[str, Any]:
        """Submit a job of the fake engine; the 202's body."""
        answer = self.client.post(target, json=fields)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def ended(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's end."""
        answer = self.client.get(f"/api/jobs/{job_id}", params={"wait": 60})
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        assert "finished_at" in job, job
        return job


@contextmanager
def running_serve(data_dir: Path, **sections: Any) -> Iterator[RunningServe]:
    """Start a server on a free port. `sections`: of its settings."""
    sections.setdefault("workers", {"methods": ("fake",)})
    storage = {"data_dir": data_dir, "min_free_mb": 0, **sections.pop("storage", {})}
    settings = Settings.model_validate({"storage": storage, **sections})
    service = Service(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(
        create_app(settings, service),
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    is_up = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    class Startup(uvicorn.Server):
        """Sets `is_up` when the server answers."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            loops.append(asyncio.get_running_loop())
            is_up.set()

    server = Startup(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="serve")
    thread.start()
    try:
        assert is_up.wait(_START_S)
        serve = RunningServe(service, f"http://127.0.0.1:{port}", loops[0])
        with serve.client:
            yield serve
    finally:
        server.should_exit = True
        thread.join(_START_S)
        listener.close()
        assert not thread.is_alive()
