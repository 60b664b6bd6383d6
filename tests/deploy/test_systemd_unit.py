"""The unit under a real systemd, booted by systemd-nspawn on the image's files."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from images import ROOT, Store
from waiting import TIMEOUT_S, wait_until

pytestmark = [pytest.mark.image, pytest.mark.long, pytest.mark.timeout(2400)]

_KEY = "the-key-of-this-test-and-of-nothing-else"
# systemd waits this long for a sign of life; the shipped value would make the test wait longer.
_DROP_IN = "[Service]\nWatchdogSec=4\nRestartSec=0\n"


class Machine:
    """A booted machine whose service is ours."""

    def __init__(self, nspawn: subprocess.Popen[bytes], tree: Path, port: int) -> None:
        self.nspawn = nspawn
        self.tree = tree
        self.client = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {_KEY}"},
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    def is_up(self) -> bool:
        """The server answers."""
        try:
            return self.client.get("/api/health/live", timeout=2).status_code == 200
        except httpx2.HTTPError:
            return False

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl in the machine; what it prints."""
        init = psutil.Process(self.nspawn.pid).children()[0].pid
        done = subprocess.run(
            ["nsenter", f"--target={init}", "--all", "systemctl", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def server(self) -> psutil.Process:
        """The service's main process, seen from outside."""
        for process in psutil.Process(self.nspawn.pid).children(recursive=True):
            if "serve" in process.cmdline()[1:3]:
                return process
        raise AssertionError("no server runs")

    def submit_running(self) -> str:
        """A job of some seconds that runs; its id."""
        job = self.client.post("/api/upscale/fake", json={"steps": 60, "step_s": 0.05}).json()
        job_id: str = job["job_id"]
        wait_until(lambda: self.job(job_id)["status"] == "processing", "the job's start")
        return job_id

    def job(self, job_id: str, wait_s: float = 0) -> dict[str, Any]:
        """The job's state."""
        job: dict[str, Any] = self.client.get(f"/api/jobs/{job_id}", params={"wait": wait_s}).json()
        return job


@pytest.fixture(scope="module")
def machine(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if shutil.which("systemd-nspawn") is None:
        pytest.skip("systemd-nspawn is not installed (Debian: apt-get install systemd-container)")
    with store.tree("systemd", "systemd-sysv", "dbus") as tree:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        _install(tree, port)
        log = (tmp_path_factory.mktemp("nspawn") / "log").open("wb")
        nspawn = subprocess.Popen(
            ["systemd-nspawn", "--register=no", "--keep-unit", "--boot", f"--directory={tree}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        machine = Machine(nspawn, tree, port)
        try:
            wait_until(machine.is_up, "the service's start")
            yield machine
        finally:
            machine.client.close()
            nspawn.terminate()  # has the machine's systemd power it off
            nspawn.wait(TIMEOUT_S)
            log.close()


def _install(tree: Path, port: int) -> None:
    unit = tree / "etc/systemd/system/upscaled.service"
    shutil.copyfile(ROOT / "packaging" / "systemd" / "upscaled.service", unit)
    drop_in = unit.with_suffix(".service.d") / "test.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(_DROP_IN, "utf-8")
    wanted = tree / "etc/systemd/system/multi-user.target.wants"
    wanted.mkdir(parents=True, exist_ok=True)
    (wanted / "upscaled.service").symlink_to("/etc/systemd/system/upscaled.service")
    settings = tree / "etc/upscaled"
    settings.mkdir()
    (settings / "keys").write_text(_key_line(), "utf-8")
    environment = {
        "UPSCALED_SERVER_PORT": port,
        "UPSCALED_STORAGE_MIN_FREE_MB": 0,
        "UPSCALED_WORKERS_METHODS": "fake",
    }
    lines = [f"{name}={value}\n" for name, value in environment.items()]
    (settings / "environment").write_text("".join(lines), "utf-8")


def _key_line() -> str:
    return f"test:sha256:{hashlib.sha256(_KEY.encode()).hexdigest()}\n"


def _wait_for_successor(machine: Machine, old: psutil.Process) -> None:
    wait_until(lambda: not old.is_running(), "the old server's end")
    wait_until(machine.is_up, "a new server")


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_server_that_was_lost_is_replaced_and_its_job_is_completed(
    machine: Machine, signum: signal.Signals
) -> None:
    job_id, server = machine.submit_running(), machine.server()
    os.kill(server.pid, signum)
    _wait_for_successor(machine, server)
    assert machine.job(job_id, TIMEOUT_S)["status"] == "completed"


def test_a_reload_keeps_the_server_and_its_job(machine: Machine) -> None:
    job_id, server = machine.submit_running(), machine.server()
    machine.systemctl("reload", "upscaled")
    assert machine.job(job_id, TIMEOUT_S)["status"] == "completed"
    assert machine.server().pid == server.pid


def test_a_stop_finishes_the_running_job(machine: Machine) -> None:
    job_id = machine.submit_running()
    machine.systemctl("stop", "upscaled")
    assert machine.systemctl("show", "upscaled", "--property=Result") == "Result=success"
    machine.systemctl("start", "upscaled")
    job = machine.job(job_id)
    assert (job["status"], job["attempt"]) == ("completed", 1)


# The last test of this file: it ends the machine.
def test_an_idle_server_turns_the_machine_off(machine: Machine) -> None:
    shipped = (ROOT / "packaging" / "systemd" / "idle.conf").read_text("utf-8")
    drop_in = machine.tree / "etc/systemd/system/upscaled.service.d/idle.conf"
    drop_in.write_text(shipped.replace("=600", "=10"), "utf-8")
    # Before the drop-in is read: with it, a stop turns the machine off too.
    machine.systemctl("stop", "upscaled")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "upscaled")
    # The job ends first, whenever it was given.
    job_id = machine.submit_running()
    assert machine.job(job_id, TIMEOUT_S)["status"] == "completed"
    assert machine.nspawn.wait(TIMEOUT_S) == 0
