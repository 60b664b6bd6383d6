"""`upscaled serve` as a process of its own, as a client and an operator see it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from PIL import Image

import nearest_engine
from waiting import wait_until

# Far beyond what anything here takes.
TIMEOUT_S = 60.0
_ADDRESS = re.compile(rb"(?:the page|the API) is at (http://[^\s/]+)")


class ServeProcess:
    """A server on a free port with a real daemon; its `esrgan` repeats pixels, without torch."""

    def __init__(self, data_dir: Path, environment: Mapping[str, str]) -> None:
        self.data_dir = data_dir
        own = {"UPSCALED_WORKERS_METHODS": "esrgan,fake", "UPSCALED_STORAGE_MIN_FREE_MB": "0"}
        self._environment = nearest_engine.environment(**{**own, **environment})
        self._environment.pop("UPSCALED_METHODS")
        self._port = 0
        self.log = b""
        self.start()

    def start(self) -> None:
        """Start it; a second time on the same port."""
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "upscaled_cli", "serve"),
                *("--port", str(self._port), "--data-dir", str(self.data_dir)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
        )
        self._known = len(self.log)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_until(lambda: self._address or self.process.poll() is not None, "the address")
        if (address := self._address) is None:
            self._thread.join(TIMEOUT_S)
            pytest.fail(f"the server did not start: {self.log.decode(errors='replace')}")
        self.url = address
        self._port = int(self.url.rpartition(":")[2])
        self.client = httpx2.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=False)

    @property
    def port(self) -> int:
        """The address of the server."""
        return self._port

    @property
    def _address(self) -> str | None:
        found = _ADDRESS.search(self.log, self._known)
        return None if found is None else found[1].decode()

    def submit(self, method: str = "fake", **fields: Any) -> dict[str, Any]:
        """Submit a job without a picture; the 202's body."""
        return self.accepted(self.client.post(f"/api/upscale/{method}", json=fields))

    @staticmethod
    def accepted(answer: httpx2.Response) -> dict[str, Any]:
        """The job of an answer, which is a 202."""
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        """A job as it is now."""
        answer = self.client.get(f"/api/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def wait_for(
        self, job_id: str, condition: Callable[[dict[str, Any]], object], what: str
    ) -> dict[str, Any]:
        """The job, once it meets the condition."""
        wait_until(lambda: condition(self.job(job_id)), what)
        return self.job(job_id)

    def running(self, job_id: str) -> dict[str, Any]:
        """The job, once it runs; a short one may have ended."""
        return self.wait_for(job_id, lambda job: job["status"] != "queued", "the start")

    def ended(self, job_id: str) -> dict[str, Any]:
        """The job, once it has ended."""
        answer = self.client.get(f"/api/jobs/{job_id}", params={"wait": TIMEOUT_S})
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        assert job["status"] in ("completed", "failed", "cancelled"), job
        return job

    def files(self) -> set[str]:
        """All files of uploads and results, by their path in the data folder."""
        return {
            str(path.relative_to(self.data_dir))
            for folder in ("uploads", "incoming", "results")
            for path in (self.data_dir / folder).rglob("*")
            if path.is_file()
        }

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self._port), TIMEOUT_S)

    @property
    def daemon(self) -> psutil.Process:
        """The daemon that is its child."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = psutil.Process(self.process.pid).children()
            return bool(found)

        wait_until(look, "a daemon")
        return found[0]

    def workers(self) -> list[int]:
        """The processes of the workers that are ready."""
        rows = self.client.get("/api/health").json().get("workers") or []
        return [row["pid"] for row in rows if row.get("pid")]

    def wait_ready(self) -> None:
        """Until jobs start now."""
        wait_until(
            lambda: self.client.get("/api/health/ready").status_code == 200, "a ready worker"
        )

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.process.kill()
        self._wait()

    def stop(self) -> int:
        """End it as an operator does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._wait()

    def wait_exit(self) -> int:
        """Its exit status, once it has one."""
        return self._wait()

    def close(self) -> None:
        """End it, whatever it does; its daemon ends with it."""
        if self.process.poll() is None:
            self.process.kill()
        self._wait()

    def _wait(self) -> int:
        status = self.process.wait(TIMEOUT_S)
        self._thread.join(TIMEOUT_S)
        self.client.close()
        return status

    def _read(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        with stdout:
            while chunk := os.read(stdout.fileno(), 65536):
                self.log += chunk


@contextmanager
def serve_process(data_dir: Path, **environment: str) -> Iterator[ServeProcess]:
    """A running server; `environment` has its settings, as in UPSCALED_LIMITS_MAX_QUEUE="2"."""
    serve = ServeProcess(data_dir, environment)
    try:
        yield serve
    finally:
        serve.close()


def picture(width: int = 12, height: int = 8, kind: str = "PNG") -> bytes:
    """A small picture."""
    buffer = BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, kind)
    return buffer.getvalue()


def code_of(answer: httpx2.Response) -> tuple[int, str]:
    """The status and the code of a problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]
