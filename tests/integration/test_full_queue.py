"""More jobs than a daemon holds: they wait, whatever the input is, and nothing waits for them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from tests.conftest import Daemon, Line, StartDaemon

DAEMONS = ["upscaled_supervisor", "upscaled_worker"]
# A daemon that held every line of the flood would grow by ten times as much.
GROWTH_BYTES = 150e6


StartFake = Callable[..., "Daemon"]


@pytest.fixture
def start_fake(start_daemon: StartDaemon) -> StartFake:
    """Starts a supervisor with the fake engine."""
    return partial(start_daemon, "upscaled_supervisor", "--methods", "fake")


def hang(daemon: Daemon, *job_ids: str) -> None:
    """Fill the queue with jobs that only a cancel ends."""
    for job_id in job_ids:
        daemon.job(job_id, hang=True)
        daemon.wait_accepted(job_id)


def cancel(daemon: Daemon, *job_ids: str) -> None:
    daemon.send(*({"type": "cancel", "job_id": job_id} for job_id in job_ids))


def kinds_of(daemon: Daemon, job_id: str) -> list[str]:
    return [line["type"] for line in daemon.lines if line.get("job_id") == job_id]


@pytest.mark.parametrize(
    ("module", "kind"),
    [("upscaled_worker", "file"), ("upscaled_supervisor", "file"), ("upscaled_supervisor", "pipe")],
)
def test_more_lines_than_the_queue_holds_are_all_done(
    module: str, kind: str, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text("".join(f'{{"job_id":"{n}","method":"fake"}}\n' for n in range(50)))
    argv = [sys.executable, "-m", module, "--methods", "fake", "--max-queue", "3"]
    with jobs.open("rb") as stdin:
        source: dict[str, Any] = {"input": stdin.read()} if kind == "pipe" else {"stdin": stdin}
        done = subprocess.run(argv, check=False, capture_output=True, timeout=120, **source)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b'"type":"result"') == 50


def test_nothing_else_waits_for_lines_that_wait(start_fake: StartFake) -> None:
    daemon = start_fake("--max-queue", "2")
    hang(daemon, "a", "b")
    daemon.job("c")
    daemon.job("d")
    report = daemon.ask_health()
    assert report["in_flight"] == 2
    daemon.send({"type": "trim"})
    daemon.wait_for(lambda line: line["type"] == "health" and line is not report)
    cancel(daemon, "a", "b")
    for job_id in "cd":
        assert daemon.wait_terminal(job_id)["type"] == "result"
        assert kinds_of(daemon, job_id)[0] == "accepted"


def test_a_cancel_ends_a_line_that_waits(start_fake: StartFake) -> None:
    daemon = start_fake("--max-queue", "1")
    hang(daemon, "a")
    daemon.job("b")
    cancel(daemon, "b", "b")
    assert daemon.wait_terminal("b")["code"] == "cancelled"
    daemon.job("b")  # its id is free again, and the second cancel was not meant for it
    cancel(daemon, "a")
    daemon.wait_for(lambda line: line["type"] == "result" and line["job_id"] == "b")
    assert [kind for kind in kinds_of(daemon, "b") if kind != "progress"] == [
        "error",
        "accepted",
        "result",
    ]


def test_a_job_that_was_cancelled_before_its_line_does_not_wait(
    start_fake: StartFake,
) -> None:
    daemon = start_fake("--max-queue", "1")
    hang(daemon, "a")
    cancel(daemon, "b")
    daemon.job("b")
    assert daemon.wait_terminal("b")["code"] == "cancelled"


@pytest.mark.parametrize(
    "line",
    [
        {"job_id": "b", "method": "fake"},
        {"job_id": "b", "method": "nonsense"},
        {"job_id": "b", "method": "fake", "timeout_s": 0},
    ],
)
def test_an_id_is_taken_while_its_line_waits(start_fake: StartFake, line: Line) -> None:
    daemon = start_fake("--max-queue", "1")
    hang(daemon, "a")
    daemon.job("b")
    daemon.send(line)
    refusal = daemon.wait_for(lambda one: one.get("refused_job_id") == "b")
    assert refusal["job_id"] is None
    cancel(daemon, "a")
    assert daemon.wait_terminal("b")["type"] == "result"


@pytest.mark.parametrize("end", ["the input ends", "shutdown"])
def test_lines_that_stand_before_the_end_are_done(start_fake: StartFake, end: str) -> None:
    daemon = start_fake("--max-queue", "1")
    hang(daemon, "a")
    daemon.job("b")
    if end == "shutdown":
        daemon.send({"type": "shutdown"})
        daemon.job("late")
        assert daemon.wait_terminal("late")["code"] == "shutting_down"
        cancel(daemon, "a")
    else:
        daemon.send({"job_id": "c", "method": "fake", "timeout_s": 600})
        cancel(daemon, "a")
        daemon.close_stdin()
    daemon.wait_status("draining")
    daemon.wait()
    assert daemon.wait_terminal("b")["type"] == "result"


def test_a_signal_refuses_the_lines_that_wait(start_fake: StartFake) -> None:
    daemon = start_fake("--max-queue", "1")
    hang(daemon, "a")
    daemon.job("b")
    daemon.ask_health()
    os.kill(daemon.pid, signal.SIGTERM)
    error = daemon.wait_terminal("b")
    assert (error["code"], error["retryable"]) == ("shutting_down", True)
    cancel(daemon, "a")
    daemon.wait()
    assert kinds_of(daemon, "b") == ["error"]


@pytest.mark.parametrize("module", DAEMONS)
def test_a_host_that_writes_on_and_on_does_not_make_the_daemon_grow(
    start_daemon: StartDaemon, module: str
) -> None:
    daemon = start_daemon(module, "--methods", "fake", "--max-queue", "10")
    hang(daemon, "a", "b")
    before = psutil.Process(daemon.pid).memory_info().rss
    assert daemon.process.stdin is not None
    pipe = daemon.process.stdin.fileno()
    os.set_blocking(pipe, False)
    number = 0
    # Until the daemon reads no more. (If it only pauses, less is written, and nothing is proven.)
    while select.select([], [pipe], [], 1.0)[1] and number < 1_000_000:
        line = b'{"job_id":"%d","method":"fake","config":{"output_text":"%b"}}\n' % (
            number,
            b"x" * 900,
        )
        while line:
            select.select([], [pipe], [])
            line = line[os.write(pipe, line) :]
        number += 1
    assert number < 1_000_000
    assert psutil.Process(daemon.pid).memory_info().rss < before + GROWTH_BYTES


@pytest.mark.parametrize(
    "line",
    [
        b"not JSON\n",
        b'{"job_id":"cut',
        b"[]\n",
        b'{"job_id":"a","method":"nonsense"}\n',
        b'{"job_id":7,"method":"fake"}\n',
        b'{"job_id":"a","method":"fake","config":{"output_text":"%b"}}\n' % (b"x" * 3000),
        b'{"type":"jbo","job_id":"a"}\n',
    ],
)
def test_a_refused_line_counts_for_the_exit_status(
    start_supervisor: StartDaemon, line: bytes
) -> None:
    daemon = start_supervisor("--line-limit-bytes", "2000")
    daemon.job("good")
    daemon.send(line)
    assert daemon.finish() == 1
    assert daemon.wait_terminal("good")["type"] == "result"
