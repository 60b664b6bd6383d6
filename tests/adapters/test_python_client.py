"""The Python client against a real daemon with the fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import psutil
import pytest

from upscaled import (
    AsyncUpscaler,
    Call,
    DaemonGoneError,
    JobCancelledError,
    UpscaledError,
    Upscaler,
)
from upscaled.command import default_command
from upscaled_protocol.errors import ErrorCode
from waiting import wait_until

FAKE = [*default_command(), "--methods", "fake"]
TIMEOUT_S = 120.0

# Starts a job that never ends, and says when it runs.
HOST = f"""
from upscaled import Upscaler
with Upscaler(command={FAKE!r}) as up:
    config = {{"steps": 2, "at_step": 1, "hang": True}}
    for progress in up.submit_job({{"method": "fake", "config": config}}):
        print("running", flush=True)
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Upscaler]:
    """One daemon for the tests that leave it as it was."""
    with Upscaler(command=FAKE) as up:
        yield up


@pytest.fixture
def up() -> Iterator[Upscaler]:
    with Upscaler(command=FAKE) as up:
        yield up


def submit(up: Upscaler, **config: Any) -> Call[None]:
    return up.submit_job({"method": "fake", "config": config})


def wait_gone(family: list[psutil.Process]) -> None:
    """Until none of them does anything any more."""

    def is_over(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(lambda: all(map(is_over, family)), "the end of the daemon's processes")


def family_of(up: Upscaler) -> list[psutil.Process]:
    """The daemon and all that it started."""
    assert up.pid is not None
    daemon = psutil.Process(up.pid)
    return [daemon, *daemon.children(recursive=True)]


def named(number: int) -> dict[str, Any]:
    """A job whose result names it."""
    return {"method": "fake", "config": {"steps": 0, "model": str(number)}}


def test_a_thousand_calls_of_16_threads_each_get_their_own_result(shared: Upscaler) -> None:
    with ThreadPoolExecutor(16) as threads:
        calls = threads.map(lambda n: shared.submit_job(named(n)).result(TIMEOUT_S), range(1000))
        assert [call.model for call in calls] == [str(number) for number in range(1000)]


def test_a_thousand_tasks_each_get_their_own_result() -> None:
    async def run() -> list[str | None]:
        async with AsyncUpscaler(command=FAKE) as up:
            results = await asyncio.gather(*(up.submit_job(named(n)) for n in range(1000)))
        return [result.model for result in results]

    assert asyncio.run(run()) == [str(number) for number in range(1000)]


def test_two_thousand_requests_leave_no_open_file_behind(shared: Upscaler) -> None:
    def run_many(count: int) -> None:
        assert not wait([submit(shared, steps=0) for _ in range(count)], TIMEOUT_S).not_done

    run_many(64)
    before = psutil.Process().num_fds()
    run_many(2000)
    # What an earlier test left may have been closed meanwhile.
    wait_until(lambda: psutil.Process().num_fds() <= before, "the end of open files")


@pytest.mark.parametrize("code", sorted(ErrorCode))
def test_every_error_code_arrives(shared: Upscaler, code: str) -> None:
    with pytest.raises(UpscaledError) as failed:
        submit(shared, steps=1, error_code=code).result(TIMEOUT_S)
    assert failed.value.code == code
    assert failed.value.job_id is not None


def test_a_storm_of_cancels_ends_every_call_once(shared: Upscaler) -> None:
    calls = []
    for _ in range(200):
        calls += [submit(shared, steps=1000, step_s=0.05), submit(shared, steps=0)]
    shared.cancel_all()
    shared.cancel_all()
    assert not wait(calls, TIMEOUT_S).not_done
    ends = {type(call.exception()) for call in calls}
    assert ends <= {type(None), JobCancelledError}
    assert submit(shared, steps=1).result(TIMEOUT_S).status == "completed"


def test_a_cancelled_task_ends_when_the_daemon_has_let_go_of_its_job() -> None:
    ends: list[Any] = []

    async def run() -> None:
        async with AsyncUpscaler(command=FAKE, on_message=ends.append) as up:
            running = asyncio.Event()

            async def watch() -> None:
                job = {"method": "fake", "config": {"steps": 2, "at_step": 1, "hang": True}}
                async for _ in up.submit_job(job):
                    running.set()

            task = asyncio.create_task(watch())
            await running.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [one["code"] for one in ends if one["type"] == "error"] == ["cancelled"]

    asyncio.run(run())


def test_a_timeout_around_a_call_cancels_its_job() -> None:
    async def run() -> None:
        async with AsyncUpscaler(command=FAKE) as up:
            call = up.submit_job({"method": "fake", "config": {"steps": 1, "hang": True}})
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await call
            with pytest.raises(JobCancelledError):
                await call

    asyncio.run(run())


def test_a_killed_worker_loses_no_job(shared: Upscaler) -> None:
    call = submit(shared, steps=1, signal=signal.SIGKILL, only_on_attempt=1)
    assert call.result(TIMEOUT_S).attempt == 2


def test_a_killed_daemon_is_reported_and_leaves_no_descendant_and_the_next_one_works(
    up: Upscaler,
) -> None:
    call = submit(up, steps=2, at_step=1, hang=True)
    next(iter(call))
    family = family_of(up)
    assert len(family) > 2
    family[0].kill()
    with pytest.raises(DaemonGoneError, match="SIGKILL") as gone:
        call.result(TIMEOUT_S)
    assert gone.value.retryable
    wait_gone(family)
    assert submit(up, steps=1).result(TIMEOUT_S).status == "completed"


def test_with_a_journal_a_killed_worker_and_a_killed_daemon_lose_no_accepted_job(
    tmp_path: Path,
) -> None:
    accepted = threading.Semaphore(0)

    def note(message: dict[str, Any]) -> None:
        if message["type"] == "accepted":
            accepted.release()

    journal = tmp_path / "jobs.db"
    with Upscaler(command=FAKE, journal=journal, restart_delay_s=0.01, on_message=note) as up:
        calls = [submit(up, steps=4, step_s=0.01, model=str(number)) for number in range(40)]
        for _ in calls:
            assert accepted.acquire(timeout=TIMEOUT_S)
        *_, worker = family_of(up)
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
        family_of(up)[0].kill()
        results = [call.result(TIMEOUT_S).model for call in calls]
    assert results == [str(number) for number in range(40)]


def test_a_host_killed_with_kill_9_leaves_no_descendant() -> None:
    with subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"running\n"
        family = psutil.Process(host.pid).children(recursive=True)
        assert len(family) > 2
        host.kill()
        wait_gone(family)
