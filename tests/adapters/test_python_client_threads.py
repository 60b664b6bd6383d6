"""The Python client in threads, callbacks, forked children and greenlets."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from echo_daemon import ECHO, TIMEOUT_S, echo, run, submit
from upscaled import (
    Call,
    ForkedError,
    Upscaler,
)
from upscaled.client import Client
from upscaled.forks import prepare_for_forks


@pytest.fixture
def up() -> Iterator[Upscaler]:
    with echo() as client:
        yield client


def test_each_of_many_threads_receives_its_own_results(up: Upscaler) -> None:
    def jobs_of(thread: int) -> list[str | None]:
        return [run(up, model=f"{thread}-{number}") for number in range(50)]

    with ThreadPoolExecutor(8) as threads:
        models = list(threads.map(jobs_of, range(8)))
    assert models == [[f"{thread}-{number}" for number in range(50)] for thread in range(8)]


def test_each_of_many_threads_receives_the_answer_that_it_asked_for(up: Upscaler) -> None:
    with ThreadPoolExecutor(8) as threads:
        reports = list(threads.map(lambda _: up.health(TIMEOUT_S), range(100)))
    assert sorted(int(report.request_id or 0) for report in reports) == list(range(1, 101))


def test_a_call_yields_its_progress_and_a_callback_gets_it_too(up: Upscaler) -> None:
    seen: list[float] = []
    job = {"method": "fake", "config": {"progress": True}}
    call = up.submit_job(job, lambda progress: seen.append(progress.progress))
    assert [progress.progress for progress in call] == [50.0]
    assert [progress.progress for progress in call] == [50.0]  # later too: the latest one
    assert seen == [50.0]


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit])
def test_what_a_callback_raises_ends_no_call(
    up: Upscaler, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    def fail(_: object) -> None:
        raise kind

    job = {"method": "fake", "config": {"progress": True}}
    call = up.submit_job(job, fail)
    call.add_done_callback(fail)
    assert call.result(TIMEOUT_S).job_id
    assert run(up, model="the next") == "the next"
    assert caplog.text.count(f"raise kind\n{kind.__name__}") == 2


def test_what_a_callback_raises_is_shown_if_the_program_has_no_log(
    up: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    shown: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda what: shown.append(what.exc_type))
    monkeypatch.setattr(logging.getLogger("upscaled"), "propagate", False)
    job = {"method": "fake", "config": {"progress": True}}
    assert up.submit_job(job, fail).result(TIMEOUT_S).job_id
    assert shown == [ZeroDivisionError]


def test_a_callback_that_waits_for_a_job_gets_an_error_and_may_submit_one(up: Upscaler) -> None:
    told: list[BaseException] = []
    submitted: list[Call[None]] = []

    def wait_inside(_: object) -> None:
        submitted.append(submit(up))
        for wait in (submitted[0].result, up.health, up.close):
            try:
                wait()
            except RuntimeError as error:
                told.append(error)

    job = {"method": "fake", "config": {"progress": True}}
    assert up.submit_job(job, wait_inside).result(TIMEOUT_S).job_id
    assert submitted[0].result(TIMEOUT_S).job_id
    assert len(told) == 3


def in_child(call: Callable[[], Any]) -> str:
    """What a call in a forked child returns or raises."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_fd, str(call()).encode())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent asks for it
            os.write(write_fd, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as raised:  # noqa: PTH123 - a descriptor
        said = raised.read().decode()
    os.waitpid(pid, 0)
    return said


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_its_own_daemon_and_the_parents_daemon_continues(up: Upscaler) -> None:
    held = submit(up, "in flight", hold=True)
    run(up)
    parents = up.pid

    def use() -> object:
        assert up.pid is None
        assert run(up, "in flight", model="mine") == "mine"
        assert up.pid not in (None, parents)
        up.close()
        return "its own"

    assert in_child(use) == "its own"
    assert in_child(lambda: held.result(TIMEOUT_S)) == ForkedError.__name__
    assert run(up, model="here") == "here"
    assert up.pid == parents
    assert not held.done()


class Dropper:
    """Drops the last reference to an Upscaler in the middle of a fork, as a garbage collection may
    do."""

    def __init__(self, closed: threading.Event) -> None:
        self._dropped = [Upscaler()]
        self._closed = closed
        self.was_closed_meanwhile: bool | None = None

    def before_fork(self) -> None:
        """Nothing."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> None:
        """Drop it, and give it a chance to be closed."""
        self._dropped.clear()
        self.was_closed_meanwhile = self._closed.wait(0.1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_an_upscaler_that_is_dropped_in_the_middle_of_a_fork_is_closed_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = threading.Event()
    monkeypatch.setattr(Client, "close", lambda _: closed.set())
    dropper = Dropper(closed)
    prepare_for_forks(dropper)
    assert in_child(lambda: closed.wait(TIMEOUT_S) and not dropper.was_closed_meanwhile) == "True"


# Reports progress of the first job, and nothing more.
HALF_DONE = """
job_id = json.loads(sys.stdin.buffer.readline())["job_id"]
say(type="progress", job_id=job_id, progress=50.0, stage="tile")
"""


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_progress() -> None:
    with echo(HALF_DONE) as up:
        progress = iter(submit(up))
        assert next(progress).stage == "tile"
        assert in_child(lambda: next(progress)) == ForkedError.__name__


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_many_forks_in_the_middle_of_many_calls_end_no_call(up: Upscaler) -> None:
    stop = threading.Event()

    def keep_calling(thread: int) -> int:
        count = 0
        while not stop.is_set():
            assert run(up, model=str(thread)) == str(thread)
            count += 1
        return count

    with ThreadPoolExecutor(4) as threads:
        counts = [threads.submit(keep_calling, thread) for thread in range(4)]
        try:
            for number in range(10):
                assert in_child(lambda: run(up, model="child")) == "child", number
        finally:
            stop.set()
        assert all(count.result(TIMEOUT_S) for count in counts)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_daemon_ends_with_its_host_although_a_forked_child_stays() -> None:
    with echo(close_timeout_s=TIMEOUT_S) as up:
        run(up)
        go_on, stop = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(stop)
            os.read(go_on, 1)  # a worker of a server that was forked, busy with something else
            os._exit(0)
        up.close()  # it would take its whole time if the child held the daemon's input
        os.close(stop)
        os.close(go_on)
        os.waitpid(pid, 0)


GREENLETS = f"""
from gevent import monkey; monkey.patch_all()
import gevent, sys
from upscaled import Upscaler
ran = []
command = [sys.executable, "-SE", "-c", {ECHO!r}, "sys.stdin.buffer.readline()"]
def job(**config): return {{"method": "fake", "config": config}}
with Upscaler(command=command) as up:
    # The daemon answers only once the other greenlet has run.
    gevent.spawn(lambda: (ran.append(1), up.submit_job(job(hold=True)).cancel()))
    def work(number):
        return up.submit_job(job(model=str(number))).result({TIMEOUT_S}).model
    works = [gevent.spawn(work, number) for number in range(20)]
    print([int(one.get()) for one in works] == list(range(20)), ran)
    up.kill()
"""

UNPATCHED = """
import gevent, sys
from upscaled import Upscaler
up = Upscaler(command=["/does/not/exist"])
def work():
    try:
        up.submit_job({"method": "fake"})
    except RuntimeError as error:
        return "patch_all" in str(error)
print(gevent.spawn(work).get(), [1])
"""


@pytest.mark.parametrize("program", [GREENLETS, UNPATCHED], ids=["patched", "unpatched"])
def test_under_gevent_other_greenlets_run_while_one_waits_or_an_error_says_how(
    program: str,
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.stdout, done.returncode) == ("True [1]\n", 0), done.stderr
