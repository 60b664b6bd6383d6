"""Which jobs a journal charges when a daemon is killed."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulated_system import SimulatedWorker
from simulation import Simulation, simulated
from upscaled_supervisor.journal import Journal

# As releases before this one made it.
OLD_SCHEMA = """
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    line BLOB,
    attempts INTEGER NOT NULL DEFAULT 0,
    event BLOB
);
CREATE INDEX jobs_by_seq ON jobs (seq);
PRAGMA user_version = 1;
"""
HANG = {"hang": True}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@contextlib.contextmanager
def killed(path: Path, *options: str) -> Iterator[Simulation]:
    """A daemon on a journal, whose jobs run until it is killed at the end."""
    with simulated("--journal", str(path), *options) as daemon:
        daemon.settle()
        yield daemon
        daemon.run_for(0.1)  # until the journal knows which jobs run


def accept(daemon: Simulation, *names: str) -> None:
    for name in names:
        daemon.job(name, config=HANG)
        daemon.wait_accepted(name)
    daemon.settle()


def running(daemon: Simulation) -> set[str]:
    """The jobs that a worker has."""
    return {name for worker in daemon.system.living for name in worker.jobs}


def deaths(path: Path) -> dict[str, int]:
    """The kills that the next daemon would find charged, by job."""
    with contextlib.closing(Journal(path)) as journal:
        return {job.job_id: job.daemon_kills for job in journal.pending()}


def test_a_kill_is_charged_to_the_jobs_that_ran_and_to_no_other(path: Path) -> None:
    with killed(path) as daemon:
        accept(daemon, "runs", "waits in the worker", "waits in the queue")
        assert running(daemon) == {"runs", "waits in the worker"}
    assert deaths(path) == {"runs": 1, "waits in the worker": 0, "waits in the queue": 0}
    assert deaths(path)["runs"] == 1  # once per kill, however often the journal is opened


def test_a_job_runs_once_its_progress_says_so(path: Path) -> None:
    with killed(path) as daemon:
        accept(daemon, "a", "b")
        daemon.worker.progress("b")
    assert deaths(path) == {"a": 1, "b": 1}


def test_a_job_that_lost_its_worker_waits_again(path: Path) -> None:
    def load(worker: SimulatedWorker) -> None:
        """Never get ready."""

    with killed(path) as daemon:
        accept(daemon, "a")
        daemon.run_for(0.1)
        daemon.system.starts = load
        daemon.worker.receive_signal(signal.SIGKILL)
    assert deaths(path) == {"a": 0}


def test_a_clean_stop_is_charged_to_no_job(path: Path) -> None:
    with killed(path) as daemon:
        accept(daemon, "a", "b")
        daemon.run_for(0.1)
        daemon.system.raise_signal(signal.SIGTERM)
        daemon.wait_status("draining")
        daemon.worker.progress("b")
    assert deaths(path) == {"a": 0, "b": 0}


def test_a_daemon_that_is_told_twice_to_stop_charges_no_job(path: Path) -> None:
    with simulated("--journal", str(path)) as daemon:
        accept(daemon, "a")
        daemon.run_for(0.1)
        daemon.system.raise_signal(signal.SIGTERM)
        daemon.wait_status("draining")
        daemon.system.raise_signal(signal.SIGTERM)
        assert daemon.wait() == 1
    assert deaths(path) == {"a": 0}


def test_a_job_that_ran_at_three_kills_ends_as_poisoned(path: Path) -> None:
    with killed(path) as daemon:
        accept(daemon, "deadly", "other")
    for _ in range(2):
        with killed(path) as daemon:
            assert "deadly" in running(daemon)
            assert daemon.terminals() == []
    with simulated("--journal", str(path)) as daemon:
        error = daemon.wait_terminal("deadly")
        assert (error["code"], error["cause"]) == ("poisoned", {"reason": "supervisor_killed"})
        assert "3 times" in error["error"]
        daemon.wait_held("other").finish("other")
        assert daemon.wait_terminal("other")["type"] == "result"
    assert deaths(path) == {}


def test_jobs_that_ran_together_are_tried_again_one_by_one(path: Path) -> None:
    with killed(path, "--workers", "3") as daemon:
        accept(daemon, "a", "b", "c")
        assert running(daemon) == {"a", "b", "c"}
    with killed(path, "--workers", "3") as daemon:
        accept(daemon, "new")
        assert running(daemon) == {"a", "new"}
        daemon.wait_held("a").finish("a")
        daemon.wait_held("b")
        assert running(daemon) == {"b", "new"}
    # The next kill shows of `b` what it cannot show of `c`.
    assert deaths(path) == {"b": 2, "c": 1, "new": 1}


def test_a_job_that_ended_leaves_no_run_to_the_next_one_of_its_id(path: Path) -> None:
    with killed(path) as daemon:
        accept(daemon, "a")
        daemon.run_for(0.1)
        daemon.worker.finish("a")
        daemon.wait_terminal("a")
        accept(daemon, "b", "c")
        daemon.job("a", config=HANG)
    assert deaths(path) == {"b": 1, "c": 0, "a": 0}


def test_a_journal_of_an_earlier_release_is_opened_as_it_is(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(OLD_SCHEMA)
        line = b'{"job_id":"a","method":"fake","config":{"hang":true}}'
        database.execute("INSERT INTO jobs (job_id, seq, line) VALUES ('a', 1, ?)", (line,))
        database.commit()
    with killed(path) as daemon:
        daemon.wait_held("a")
    assert deaths(path) == {"a": 1}


def test_a_job_is_recorded_as_running_once_for_all_its_progress(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[str] = []
    monkeypatch.setattr(Journal, "mark_running", lambda _, job_id: recorded.append(job_id))
    with killed(path) as daemon:
        accept(daemon, "a")
        for _ in range(3):
            daemon.worker.progress("a")
            daemon.run_for(0.1)
    assert recorded == ["a"]
