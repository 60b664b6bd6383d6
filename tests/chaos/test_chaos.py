"""Thousands of jobs while workers are killed, stopped or replaced: none is lost or answered twice.

Every job writes its own file, so that the outputs can be compared with those of an undisturbed run.
The disturbances follow fixed seeds, but their timing differs each time.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from upscaled_protocol.processtree import child_pids

if TYPE_CHECKING:
    from tests.conftest import Daemon, StartDaemon

# A job may be killed often at random, and must not end as poisoned here.
ATTEMPTS = 100
# The fewest disturbances of a run.
ENOUGH = 5
# Starts of a supervisor with a journal.
STARTS = 7
TIMEOUT_S = 60.0


class Disturber:
    """Disturbs a random worker again and again, until it is stopped.

    It pauses if no job has ended since, because on a slow machine no job would ever end.
    """

    def __init__(
        self,
        daemon: Daemon,
        seed: int,
        disturb: Callable[[int], None],
        pause_s: tuple[float, float],
    ) -> None:
        self._daemon = daemon
        self._random = random.Random(seed)
        self._disturb = disturb
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Disturber:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_enough(self) -> None:
        assert self._enough.wait(TIMEOUT_S), "the workers could not be disturbed"

    def _run(self) -> None:
        count = unproductive = ended = 0
        while not self._stop.wait(self._random.uniform(*self._pause_s)):
            before, ended = ended, len(self._daemon.terminals())
            unproductive = 0 if ended > before else unproductive
            workers = workers_of(self._daemon)
            if workers and unproductive < ENOUGH:
                with contextlib.suppress(ProcessLookupError):
                    self._disturb(self._random.choice(workers))
                    count += 1
                    unproductive += 1
            if count >= ENOUGH:
                self._enough.set()


def workers_of(daemon: Daemon) -> list[int]:
    return [pid for fork_server in child_pids(daemon.pid) for pid in child_pids(fork_server)]


def jobs(folder: Path, number: int, **config: object) -> list[dict[str, Any]]:
    return [
        {
            "job_id": str(n),
            "method": "fake",
            "max_attempts": ATTEMPTS,
            "config": {
                "steps": 2,
                "step_s": 0.002,
                "output_path": str(folder / f"{n}.txt"),
                "output_text": f"the output of job {n}",
                **config,
            },
        }
        for n in range(number)
    ]


def assert_all_done_once(terminals: list[dict[str, Any]], folder: Path, number: int) -> None:
    answers = Counter(line["job_id"] for line in terminals)
    assert set(answers) == {str(n) for n in range(number)}, "a job was lost"
    assert set(answers.values()) == {1}, "a job was answered twice"
    assert {line["type"] for line in terminals} == {"result"}
    outputs = {path.name: path.read_text() for path in folder.iterdir()}
    # The files of an undisturbed run and no others, not even a partial one.
    assert outputs == {f"{n}.txt": f"the output of job {n}" for n in range(number)}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def sizes(short: int, long: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "number", [short, pytest.param(long, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
    )


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    folder.mkdir()
    return folder


def run_disturbed(
    daemon: Daemon,
    messages: list[dict[str, Any]],
    disturb: Callable[[int], None],
    pause_s: tuple[float, float] = (0.05, 0.2),
) -> None:
    """Run all jobs but the last while workers are disturbed, and the last one afterwards."""
    *most, last = messages
    daemon.wait_status("ready")
    with Disturber(daemon, 1, disturb, pause_s) as disturber:
        daemon.send(*most)
        disturber.wait_enough()
        for message in most:
            daemon.wait_terminal(message["job_id"])
    daemon.send(last)
    daemon.wait_terminal(last["job_id"])
    # A stopped worker without a job is not noticed.
    for worker in workers_of(daemon):
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


@sizes(2000, 10_000)
def test_no_job_is_lost_while_workers_are_killed(
    start_supervisor: StartDaemon, outputs: Path, number: int
) -> None:
    daemon = start_supervisor("--workers", "2")
    run_disturbed(daemon, jobs(outputs, number), kill)
    assert daemon.finish() == 0
    assert_all_done_once(daemon.terminals(), outputs, number)


@sizes(400, 4000)
def test_no_job_is_lost_if_every_worker_is_a_fresh_process(
    start_supervisor: StartDaemon, outputs: Path, number: int
) -> None:
    daemon = start_supervisor("--workers", "2", "--no-template")
    # A fresh interpreter starts in a third of a second; killed sooner, it never does a job.
    run_disturbed(daemon, jobs(outputs, number), kill, (0.6, 1.2))
    assert daemon.finish() == 0
    assert_all_done_once(daemon.terminals(), outputs, number)


@sizes(150, 2000)
def test_no_job_is_lost_while_workers_are_stopped(
    start_supervisor: StartDaemon, outputs: Path, number: int
) -> None:
    # Some are stopped before they are ready, too.
    limits = ("--stall-timeout-s", "0.3", "--start-timeout-s", "2")
    daemon = start_supervisor("--workers", "2", *limits)
    run_disturbed(daemon, jobs(outputs, number), freeze)
    assert daemon.finish() == 0
    assert_all_done_once(daemon.terminals(), outputs, number)


@sizes(1000, 10_000)
def test_no_job_is_lost_while_workers_are_recycled(
    start_supervisor: StartDaemon, outputs: Path, number: int
) -> None:
    daemon = start_supervisor("--workers", "2")
    run_disturbed(daemon, jobs(outputs, number), lambda _: os.kill(daemon.pid, signal.SIGHUP))
    assert daemon.finish() == 0
    assert_all_done_once(daemon.terminals(), outputs, number)
    assert all(line["attempt"] == 1 for line in daemon.terminals())


@sizes(400, 10_000)
def test_no_job_is_lost_while_everything_goes_wrong_at_once(
    start_supervisor: StartDaemon, outputs: Path, number: int
) -> None:
    """Crashes, hangs, exits, rolling restarts and kills of the fork server, in any order."""
    limits = ("--stall-timeout-s", "0.5", "--start-timeout-s", "2")
    daemon = start_supervisor("--workers", "2", *limits)
    chance = random.Random(2)

    def disturb(worker: int) -> None:
        signum = chance.choice(["SIGKILL", "SIGKILL", "SIGTERM", "SIGSTOP", "SIGSEGV", "SIGHUP"])
        if signum == "SIGHUP":
            os.kill(daemon.pid, signal.SIGHUP)
        elif chance.random() < 0.2:
            for fork_server in child_pids(daemon.pid):
                kill(fork_server)
        else:
            os.kill(worker, signal.Signals[signum])

    run_disturbed(daemon, jobs(outputs, number, step_s=0.004), disturb, (0.02, 0.2))

    def has_only_its_workers(report: dict[str, Any]) -> bool:
        return sorted(workers_of(daemon)) == sorted(row["pid"] for row in report["workers"])

    # After the last rolling restart there are no more workers than slots.
    daemon.wait_health(lambda one: one["status"] == "ok" and has_only_its_workers(one))
    assert daemon.finish() == 0
    assert_all_done_once(daemon.terminals(), outputs, number)


@sizes(150, 2000)
def test_no_job_is_lost_to_a_leaking_engine(
    start_supervisor: StartDaemon, outputs: Path, number: int
) -> None:
    daemon = start_supervisor("--workers", "2", "--memory-limit-mb", "200")
    *most, last = jobs(outputs, number, grow_mb=5, step_s=0.02)
    daemon.send(*most)
    daemon.wait_status("worker_restarted")
    daemon.send(last)
    assert daemon.finish() == 0
    assert_all_done_once(daemon.terminals(), outputs, number)
    recycled = [line for line in daemon.lines if line.get("message") == "worker_restarted"]
    assert {line["cause"]["reason"] for line in recycled} == {"memory"}
    assert all(line["attempt"] == 1 for line in daemon.terminals())


@sizes(400, 4000)
def test_no_job_is_lost_while_the_supervisor_itself_is_killed(
    start_supervisor: StartDaemon, outputs: Path, number: int, tmp_path: Path
) -> None:
    journal = str(tmp_path / "jobs.db")
    chance = random.Random(1)
    everything = jobs(outputs, number)
    accepted: set[str] = set()
    terminals: list[dict[str, Any]] = []
    for starts_left in reversed(range(STARTS)):
        # One more job per start, so that the last one has a job even if the others did all.
        ended = {line["job_id"] for line in terminals}
        sent = [job["job_id"] for job in everything[: number - starts_left]]
        missed = [one for one in sent if one in accepted - ended]
        not_taken = [job for job in everything[: len(sent)] if job["job_id"] not in accepted]
        daemon = start_supervisor("--workers", "2", "--journal", journal)
        # As a host does after a crash: ask for the results that it missed, send the jobs again that
        # were not accepted.
        daemon.send({"type": "replay", "job_ids": missed}, *not_taken)
        if starts_left:
            threading.Event().wait(chance.uniform(0.3, 0.8))
        else:
            daemon.finish()
        daemon.kill()
        accepted |= {line["job_id"] for line in daemon.lines if line["type"] == "accepted"}
        # If a line was refused because its job is pending, the refusal is no answer to that job.
        ends = daemon.terminals()
        terminals += [line for line in ends if line["job_id"] is not None]
        accepted |= {line["refused_job_id"] for line in ends if "refused_job_id" in line}
    assert_all_done_once(terminals, outputs, number)


def test_a_poison_job_changes_no_other_result(start_supervisor: StartDaemon, outputs: Path) -> None:
    daemon = start_supervisor("--workers", "2")
    messages = jobs(outputs, 100)
    poison = [
        {"job_id": f"poison-{n}", "method": "fake", "config": config}
        for n, config in enumerate(({"exit_code": 9}, {"signal": 9}, {"signal": 11}))
    ]
    for place, job in zip((10, 50, 90), poison, strict=True):
        messages.insert(place, job)
    daemon.send(*messages)
    assert daemon.finish() == 1
    bad = [line for line in daemon.terminals() if line["job_id"].startswith("poison")]
    good = [line for line in daemon.terminals() if line not in bad]
    assert [line["code"] for line in bad] == ["poisoned"] * 3
    assert_all_done_once(good, outputs, 100)
    # Two exits per poison job: no third attempt, and no exit for another reason.
    restarts = daemon.stderr.count(b'"event":"worker_gone"')
    assert restarts == 6, daemon.stderr.decode()
