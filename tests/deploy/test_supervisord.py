"""A real supervisord with the shipped configuration, a real server on the fake engine, and the
event listener between them. Ticks come by request, so that no test waits for supervisord's clock.
"""

from __future__ import annotations

import configparser
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import httpx2
import psutil
import pytest
from supervisor.xmlrpc import SupervisorTransport

import upscaled_supervisor.supervisord
from free_ports import free_port
from waiting import TIMEOUT_S, wait_until

_SHIPPED = Path(upscaled_supervisor.supervisord.__file__).with_name("supervisord.conf")
_LONG_JOB = {"steps": 60, "step_s": 0.05}


class Supervised:
    """A supervisord that runs, and the server that it started."""

    def __init__(
        self, process: subprocess.Popen[bytes], address: Path, url: str, log: Path
    ) -> None:
        self.process = process
        self._log = log
        self.client = httpx2.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)
        self._transport = SupervisorTransport(None, None, f"unix://{address}")
        self.rpc: Any = ServerProxy("http://127.0.0.1", self._transport).supervisor

    def info(self) -> dict[str, Any]:
        """supervisord's row for the server; empty while supervisord starts."""
        try:
            info: dict[str, Any] = self.rpc.getProcessInfo("upscaled")
        except (Fault, OSError):
            return {}
        return info

    def is_up(self) -> bool:
        """It runs for supervisord, and answers."""
        try:
            answers = self.client.get("/api/health/live", timeout=2).status_code == 200
        except httpx2.HTTPError:
            return False
        return answers and self.info().get("statename") == "RUNNING"

    def tick(self) -> None:
        """Have the listener check the server once."""
        self.rpc.sendRemoteCommEvent("tick", "")

    def submit(self) -> str:
        """A job of some seconds that runs; its id."""
        job_id: str = self.client.post("/api/upscale/fake", json=_LONG_JOB).json()["job_id"]
        wait_until(lambda: self.job(job_id)["status"] == "processing", "the job's start")
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        """A job, from a server that is up."""
        job: dict[str, Any] = self.client.get(f"/api/jobs/{job_id}", params={"wait": 0}).json()
        return job

    def ended(self, job_id: str) -> str:
        """How the job ended."""
        answer = self.client.get(f"/api/jobs/{job_id}", params={"wait": TIMEOUT_S})
        status: str = answer.json()["status"]
        return status

    def log(self) -> str:
        """What supervisord and its programs wrote."""
        return self._log.read_text("utf-8", "replace")

    def close(self) -> None:
        """End what is left of it."""
        self.client.close()
        self._transport.close()
        if self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            try:
                self.process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                for child in children:
                    child.kill()
                self.process.kill()
                self.process.wait(TIMEOUT_S)


@contextmanager
def _supervised(
    folder: Path, *watch_options: str, command: str | None = None
) -> Iterator[Supervised]:
    port = free_port()
    settings = configparser.RawConfigParser()
    settings.read(_SHIPPED)
    python = sys.executable
    address = folder / "supervisor.sock"
    changes = {
        ("supervisord", "pidfile"): folder / "pid",
        ("unix_http_server", "file"): address,
        ("supervisorctl", "serverurl"): f"unix://{address}",
        ("program:upscaled", "command"): command or f"{python} -m upscaled_cli serve",
        ("program:upscaled", "startsecs"): 1,
        ("program:upscaled", "startretries"): 1,
        ("eventlistener:watch", "command"): settings["eventlistener:watch"]["command"].replace(
            "python ", f"{python} "
        )
        + "".join(f" {option}" for option in watch_options),
        ("eventlistener:watch", "events"): "PROCESS_STATE_FATAL,REMOTE_COMMUNICATION",
    }
    for (section, name), value in changes.items():
        settings[section][name] = str(value)
    file = folder / "supervisord.conf"
    with file.open("w", encoding="utf-8") as text:
        settings.write(text)
    environment = {
        **os.environ,
        "PORT": str(port),
        "UPSCALED_STORAGE_DATA_DIR": str(folder / "data"),
        "UPSCALED_STORAGE_MIN_FREE_MB": "0",
        "UPSCALED_WORKERS_METHODS": "fake",
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [python, "-m", "upscaled_supervisor.supervisord", "-n", "-c", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )
    supervised = Supervised(process, address, f"http://127.0.0.1:{port}", folder / "log")
    try:
        yield supervised
    finally:
        supervised.close()


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    with _supervised(tmp_path) as running:
        wait_until(running.is_up, "the server's start")
        yield running


def _wait_for_successor(running: Supervised, old_pid: int) -> None:
    def is_there() -> bool:
        return running.info().get("pid") not in (0, old_pid) and running.is_up()

    wait_until(is_there, "a new server")


def test_a_killed_server_is_started_again_and_its_job_is_completed(supervised: Supervised) -> None:
    job_id, pid = supervised.submit(), supervised.info()["pid"]
    os.kill(pid, signal.SIGKILL)
    _wait_for_successor(supervised, pid)
    assert supervised.ended(job_id) == "completed"


def test_a_stopped_server_is_killed_after_three_checks_without_an_answer(
    supervised: Supervised,
) -> None:
    job_id, pid = supervised.submit(), supervised.info()["pid"]
    supervised.tick()
    os.kill(pid, signal.SIGSTOP)
    for _ in range(3):
        supervised.tick()
    _wait_for_successor(supervised, pid)
    assert "gave no answer" in supervised.log()
    assert supervised.ended(job_id) == "completed"


def test_a_server_past_its_memory_finishes_its_job_and_is_started_again(tmp_path: Path) -> None:
    with _supervised(tmp_path, "--memory-limit-mb", "10") as running:
        wait_until(running.is_up, "the server's start")
        job_id, pid = running.submit(), running.info()["pid"]
        running.tick()
        wait_until(lambda: running.info().get("statename") == "STOPPED", "the drain's end")
        running.tick()
        _wait_for_successor(running, pid)
        assert running.job(job_id)["status"] == "completed"
        assert "more than the limit of 10 MB" in running.log()


def test_what_an_operator_stopped_stays_stopped(supervised: Supervised) -> None:
    supervised.rpc.stopProcess("upscaled")
    supervised.tick()
    supervised.tick()
    supervised.rpc.startProcess("upscaled")
    assert "was started again" not in supervised.log()


def test_a_server_that_cannot_start_ends_supervisord_with_exit_status_1(tmp_path: Path) -> None:
    with _supervised(tmp_path, command="false") as running:
        assert running.process.wait(TIMEOUT_S) == 1
        assert "upscaled could not be started" in running.log()


def test_a_shutdown_during_a_check_finishes_the_job_and_exits_with_0(tmp_path: Path) -> None:
    with _supervised(tmp_path) as running:
        wait_until(running.is_up, "the server's start")
        job_id = running.submit()
        running.tick()
        running.process.terminate()
        assert running.process.wait(TIMEOUT_S) == 0
        assert "Traceback" not in running.log()
    with _supervised(tmp_path) as again:
        wait_until(again.is_up, "the server's start")
        job = again.job(job_id)
        assert (job["status"], job["attempt"]) == ("completed", 1)
