"""The Python client against a real daemon with the fake engine."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from upscaled_cli.client import DAEMON, Client, DaemonGoneError
from upscaled_protocol.errors import ErrorCode
from waiting import wait_until

FAKE = (*DAEMON, "--methods", "fake")
IN_FLIGHT = 64

# Starts a job that never ends, and says when it runs.
HOST = f"""
from upscaled_cli.client import Client
with Client({FAKE!r}) as client:
    client.submit("fake", {{"steps": 2, "at_step": 1, "hang": True}})
    for message in client.events():
        if message["type"] == "progress":
            print("running", flush=True)
"""


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(FAKE) as client:
        yield client


def wait_gone(family: list[psutil.Process]) -> None:
    """Until none of them does anything any more."""

    def is_over(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(lambda: all(map(is_over, family)), "the end of the daemon's processes")


def run_many(client: Client, count: int) -> list[dict[str, Any]]:
    """No-op jobs, 64 in flight; their ends."""
    ends: list[dict[str, Any]] = []
    sent = 0
    while len(ends) < count:
        while sent < count and len(client.pending) < IN_FLIGHT:
            client.submit("fake", {"steps": 0})
            sent += 1
        message = client.receive()
        if message["type"] in ("result", "error"):
            ends.append(message)
    return ends


@pytest.mark.parametrize(
    "job",
    [
        {"config": {"step_s": float("nan")}},
        {"config": {"model": "\ud83d"}},
        {"config": {"model": "x" * 2**25}},
        {"job_id": "x" * 129},
        {"job_id": ""},
    ],
)
def test_a_job_that_the_daemon_could_not_name_is_not_sent(
    client: Client, job: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"^a "):
        client.submit("fake", **{"config": {}} | job)
    assert not client.pending
    assert run(client)["type"] == "result"


def run(client: Client, **config: Any) -> dict[str, Any]:
    """One job's end."""
    job_id = client.submit("fake", config)
    return [message for message in client.events() if message.get("job_id") == job_id][-1]


def test_a_thousand_jobs_64_in_flight_each_get_their_own_result(client: Client) -> None:
    ends = run_many(client, 1000)
    assert {end["type"] for end in ends} == {"result"}
    assert {end["job_id"] for end in ends} == {str(number + 1) for number in range(1000)}


def test_ten_thousand_requests_leave_no_open_file_behind(client: Client) -> None:
    run_many(client, IN_FLIGHT)
    before = psutil.Process().num_fds()
    assert len(run_many(client, 10_000)) == 10_000
    # What an earlier test left may have been closed meanwhile.
    wait_until(lambda: psutil.Process().num_fds() <= before, "the end of open files")


@pytest.mark.parametrize("code", sorted(ErrorCode))
def test_every_error_code_arrives(client: Client, code: str) -> None:
    end = run(client, steps=1, error_code=code)
    assert (end["type"], ErrorCode(end["code"])) == ("error", ErrorCode(code))


def test_a_storm_of_cancels_ends_every_job_once(client: Client) -> None:
    for _ in range(200):
        client.submit("fake", {"steps": 1000, "step_s": 0.05})
        client.submit("fake", {"steps": 0})
    client.cancel()
    client.cancel()
    ends = [one["job_id"] for one in client.events() if one["type"] in ("result", "error")]
    assert sorted(ends, key=int) == [str(number + 1) for number in range(400)]
    assert run(client, steps=1)["type"] == "result"


def test_a_killed_worker_loses_no_job(client: Client) -> None:
    end = run(client, steps=1, signal=signal.SIGKILL, only_on_attempt=1)
    assert (end["type"], end["attempt"]) == ("result", 2)


def test_a_killed_daemon_is_told_and_leaves_no_descendant(client: Client) -> None:
    client.submit("fake", {"steps": 2, "at_step": 1, "hang": True})
    for message in client.events():
        if message.get("message") == "ready":
            daemon = psutil.Process(message["pid"])
        if message["type"] == "progress":
            break
    family = [daemon, *daemon.children(recursive=True)]
    assert len(family) > 2
    daemon.kill()
    with pytest.raises(DaemonGoneError):
        list(client.events())
    wait_gone(family)


def test_a_host_killed_with_kill_9_leaves_no_descendant() -> None:
    with subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"running\n"
        family = psutil.Process(host.pid).children(recursive=True)
        assert len(family) > 2
        host.kill()
        wait_gone(family)
