"""The image for processors, built from the published Dockerfile and run without any right."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from images import ROOT, Store
from waiting import TIMEOUT_S, wait_until

pytestmark = [pytest.mark.image, pytest.mark.timeout(2400)]

_USER = 10001
_PICTURE = ROOT / "examples" / "astronaut.jpg"
_CHECK_TIMEOUT_S = 300


class Container:
    """A container of the image that runs."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, mark: str, log: Path) -> None:
        self.process = process
        self.url = url
        self._mark = mark
        self._log = log
        self.client = httpx2.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)

    def is_up(self) -> bool:
        """The server answers."""
        try:
            return self.client.get("/api/health/live", timeout=2).status_code == 200
        except httpx2.HTTPError:
            return False

    def server(self) -> psutil.Process:
        """The process of `upscaled serve`, seen from outside."""
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "serve" in command[1:3] and process.environ().get("MARK") == self._mark:
                return process
        raise AssertionError("no server runs")

    def submit(self, method: str = "fake", **fields: Any) -> str:
        """A job; its id."""
        answer = self.client.post(f"/api/upscale/{method}", json=fields)
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    def submit_running(self) -> str:
        """A job of some seconds that runs; its id."""
        job_id = self.submit(steps=60, step_s=0.05)
        wait_until(lambda: self.job(job_id)["status"] == "processing", "the job's start")
        return job_id

    def job(self, job_id: str, wait_s: float = 0) -> dict[str, Any]:
        """The job's state."""
        job: dict[str, Any] = self.client.get(f"/api/jobs/{job_id}", params={"wait": wait_s}).json()
        return job

    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text("utf-8", "replace")


@contextmanager
def _running(
    store: Store,
    folder: Path,
    *options: str,
    command: list[str] | None = None,
    port: int | None = None,
    **variables: str,
) -> Iterator[Container]:
    if port is None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    data = folder / "data"
    data.mkdir(exist_ok=True)
    os.chown(data, _USER, _USER)
    mark = uuid.uuid4().hex
    variables = {
        "MARK": mark,
        "PORT": str(port),
        "UPSCALED_AUTH_ALLOW_ANONYMOUS": "true",
        "UPSCALED_STORAGE_MIN_FREE_MB": "0",
        "UPSCALED_WORKERS_METHODS": "fake",
        **variables,
    }
    mounts = [] if any("/data" in option for option in options) else [f"--volume={data}:/data"]
    settings = [f"--env={name}={value}" for name, value in variables.items()]
    entry = [f"--entrypoint={command[0]}"] if command else []
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            store.run(*mounts, *settings, *entry, *options, command=(command or [])[1:]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    container = Container(process, f"http://127.0.0.1:{port}", mark, folder / "log")
    try:
        yield container
    finally:
        container.client.close()
        if process.poll() is None:
            process.terminate()
            process.wait(TIMEOUT_S)


def test_each_endpoint_answers_and_a_stop_finishes_the_running_job(
    store: Store, tmp_path: Path
) -> None:
    with _running(store, tmp_path, UPSCALED_WORKERS_METHODS="esrgan,fake") as container:
        wait_until(container.is_up, "the server's start")
        assert container.server().uids().real == _USER
        check = subprocess.run(
            [sys.executable, ROOT / "docker" / "review" / "check.py", container.url],
            capture_output=True,
            text=True,
            check=False,
            timeout=_CHECK_TIMEOUT_S,
        )
        assert check.returncode == 0, check.stdout + check.stderr
        job_id = container.submit_running()
        container.process.send_signal(signal.SIGTERM)
        assert container.process.wait(TIMEOUT_S) == 0
    with _running(store, tmp_path) as again:
        wait_until(again.is_up, "the server's start")
        assert again.job(job_id)["status"] == "completed"


def test_supervisord_replaces_a_killed_and_a_stopped_server(store: Store, tmp_path: Path) -> None:
    command = ["python", "-m", "upscaled_supervisor.supervisord"]
    with _running(store, tmp_path, command=command) as container:
        for signum in (signal.SIGKILL, signal.SIGSTOP):
            wait_until(container.is_up, "the server's start")
            job_id, server = container.submit_running(), container.server()
            server.send_signal(signum)
            wait_until(lambda old=server: not old.is_running(), "the old server's end")  # type: ignore[misc]
            wait_until(container.is_up, "a new server")
            assert container.job(job_id, TIMEOUT_S)["status"] == "completed"
        container.process.send_signal(signal.SIGTERM)
        assert container.process.wait(TIMEOUT_S) == 0


def test_a_full_volume_is_reported_and_no_part_of_the_upload_stays(
    store: Store, tmp_path: Path
) -> None:
    volume = "--tmpfs=/data:rw,size=4m,mode=1777"
    with _running(store, tmp_path, volume, UPSCALED_WORKERS_METHODS="esrgan") as container:
        wait_until(container.is_up, "the server's start")
        large = _PICTURE.read_bytes() + bytes(8 << 20)
        answer = container.client.post("/api/upscale", files={"image": ("a.jpg", large)})
        assert (answer.status_code, answer.json()["code"]) == (507, "insufficient_storage")


def test_a_port_in_use_ends_the_server_with_exit_status_1(store: Store, tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with _running(store, tmp_path, port=port) as container:
            assert container.process.wait(TIMEOUT_S) == 1
            assert str(port) in container.log()
