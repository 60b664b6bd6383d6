"""Which jobs a journal charges with the death of a daemon, without processes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from upscaled_protocol.envelope import open_envelope
from upscaled_protocol.log import Logger
from upscaled_protocol.outbox import Outbox
from upscaled_supervisor.child import Child, open_pipes
from upscaled_supervisor.devices import Placement
from upscaled_supervisor.dispatch import Dispatcher
from upscaled_supervisor.journal import Journal
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.options import read_options
from upscaled_supervisor.queue import Job

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
RUNNING = {"type": "progress", "job_id": "?", "progress": 1.0, "stage": "step"}


class Sink:
    """Takes all that the host is told."""

    fd = -1

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: memoryview) -> int:
        self.written += bytes(data)
        return len(data)


class Life:
    """A daemon on a journal, from its start to its death, with workers that have two places."""

    def __init__(self, path: Path, workers: int = 1) -> None:
        self.sink = Sink()
        self.outbox = Outbox(self.sink)
        self._null = os.open(os.devnull, os.O_WRONLY)
        self.ledger = Ledger(self.outbox, Logger(self._null), 10)
        options = read_options(["--methods", "fake"])
        self._fds = [self._null]
        self.children: dict[int, Child] = {}
        for number in range(workers):
            theirs, ours = open_pipes()
            self._fds += theirs
            child = Child(number, number, Placement.for_workers(options)[0], ours)
            child.state = "ready"
            child.lanes = {"device": {"methods": ["fake"], "slots": 2}}
            self.children[number] = child
        self.dispatcher = Dispatcher(self.children, self.ledger, options)
        self.journal = Journal(path)
        self.ledger.restore(self.journal)
        self.turn()

    def accept(self, *names: str) -> None:
        for name in names:
            line = orjson.dumps({"job_id": name, "method": "fake"})
            self.ledger.accept(Job(open_envelope(line), line))
        self.turn()

    def turn(self) -> None:
        self.dispatcher.dispatch()
        self.ledger.record_running()

    def progress(self, name: str, stage: str) -> None:
        job, fields = self.ledger.jobs[name], RUNNING | {"job_id": name, "stage": stage}
        job.note_progress(fields, 60.0)
        self.ledger.progress(job, orjson.dumps(fields), fields)
        self.turn()

    def finish(self, name: str) -> None:
        job = self.ledger.jobs[name]
        self.ledger.finish(job, b'{"type":"result"}', "completed")
        for child in self.children.values():
            if name in child.jobs:
                child.take_back(job)
        self.turn()

    @property
    def running(self) -> set[str]:
        """The jobs that are with a worker."""
        return {name for child in self.children.values() for name in child.jobs}

    def errors(self) -> list[dict[str, Any]]:
        self.outbox.flush()
        lines = [orjson.loads(line) for line in self.sink.written.splitlines()]
        return [line for line in lines if line["type"] == "error"]

    def die(self) -> None:
        """Leave the journal as a kill does."""
        self.journal.close()
        for child in self.children.values():
            child.close()
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@contextlib.contextmanager
def life(path: Path, workers: int = 1) -> Iterator[Life]:
    one = Life(path, workers)
    try:
        yield one
    finally:
        one.die()


def deaths(path: Path) -> dict[str, int]:
    """What a next start would find."""
    with contextlib.closing(Journal(path)) as journal:
        return {job.job_id: job.deaths for job in journal.pending()}


def test_a_death_is_charged_to_the_jobs_that_ran_and_to_no_other(path: Path) -> None:
    with life(path) as one:
        one.accept("runs", "waits in the worker", "waits in the queue")
        one.progress("waits in the worker", "waiting")
        assert one.running == {"runs", "waits in the worker"}
    assert deaths(path) == {"runs": 1, "waits in the worker": 0, "waits in the queue": 0}
    assert deaths(path)["runs"] == 1  # once for each death, however often it is opened


def test_a_job_runs_once_its_progress_says_so(path: Path) -> None:
    with life(path) as one:
        one.accept("a", "b")
        one.progress("b", "waiting")
        one.progress("b", "running")
    assert deaths(path) == {"a": 1, "b": 1}


def test_a_job_that_lost_its_worker_waits_again(path: Path) -> None:
    with life(path) as one:
        one.accept("a")
        job = one.ledger.jobs["a"]
        one.children[0].take_back(job)
        one.ledger.take_back(job, None)
    assert deaths(path) == {"a": 0}


def test_a_clean_stop_is_charged_to_no_job(path: Path) -> None:
    with life(path) as one:
        one.accept("a", "b")
        one.ledger.note_clean_stop()
        one.progress("b", "running")
    assert deaths(path) == {"a": 0, "b": 0}


def test_a_job_that_ran_at_three_deaths_ends_as_poisoned(path: Path) -> None:
    with life(path) as one:
        one.accept("a")
    for _ in range(2):
        with life(path) as one:
            assert one.running == {"a"}
            assert one.errors() == []
    with life(path) as one:
        (error,) = one.errors()
        assert (error["code"], error["cause"]["reason"]) == ("poisoned", "supervisor_killed")
        assert one.ledger.jobs == {}
    assert deaths(path) == {}


def test_jobs_that_ran_together_are_tried_again_one_by_one(path: Path) -> None:
    with life(path, workers=3) as one:
        one.accept("a", "b", "c")
        assert one.running == {"a", "b", "c"}
    with life(path, workers=3) as one:
        one.accept("new")
        assert one.running == {"a", "new"}
        one.finish("a")
        assert one.running == {"b", "new"}
    # The next death says of `b` what it cannot say of `c`.
    assert deaths(path) == {"b": 2, "c": 1, "new": 1}


def test_a_job_that_ended_leaves_no_run_to_the_next_one_of_its_id(path: Path) -> None:
    with life(path) as one:
        one.accept("a")
        one.finish("a")
        one.accept("b", "c", "a")
    assert deaths(path) == {"b": 1, "c": 0, "a": 0}


def test_a_journal_of_an_earlier_release_is_opened_as_it_is(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(OLD_SCHEMA)
        line = b'{"job_id":"a","method":"fake"}'
        database.execute("INSERT INTO jobs (job_id, seq, line) VALUES ('a', 1, ?)", (line,))
        database.commit()
    with life(path) as one:
        assert one.running == {"a"}
    assert deaths(path) == {"a": 1}


def test_a_job_is_recorded_as_running_once_for_all_its_progress(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[str] = []
    monkeypatch.setattr(Journal, "note_running", lambda _, job_id: recorded.append(job_id))
    with life(path) as one:
        one.accept("a")
        for _ in range(3):
            one.progress("a", "step")
    assert recorded == ["a"]


def test_a_cancel_that_comes_before_the_journal_ends_the_job_that_the_journal_holds(
    path: Path,
) -> None:
    with life(path) as first:
        first.accept("a", "b", "c")
    sink, log_fd = Sink(), os.open(os.devnull, os.O_WRONLY)
    ledger = Ledger(Outbox(sink), Logger(log_fd), 10)
    ledger.awaits_journal = True
    ledger.admission.note_cancel("b")
    with contextlib.closing(Journal(path)) as journal:
        ledger.restore(journal)
    os.close(log_fd)
    assert set(ledger.jobs) == {"a", "c"}
