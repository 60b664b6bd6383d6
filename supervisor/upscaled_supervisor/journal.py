"""Accepted jobs on disk, so that they outlive the supervisor.

One SQLite file in WAL mode, one row a job: pending until its terminal event is recorded, and the
event is kept then, for hosts that missed it. A row is committed before the host hears of it.

A second table names the jobs that run. If a journal is opened in which some still do, the daemon
before was killed, and perhaps one of them took it down: each is charged with that death.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from upscaled_protocol.errors import ErrorCode, JobError

_VERSION = 1
# Another process may hold the file for a moment only, such as a backup.
_LOCK_TIMEOUT_S = 0.2
# Terminal events kept for hosts that ask again, and their bytes, for a result may hold a picture;
# the oldest go first, a quarter of the bytes at once.
_KEPT_EVENTS = 100_000
_KEPT_BYTES = 2**30
# How many finished jobs pass between two clean-ups.
_PRUNE_EVERY = 1000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    job_id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    line BLOB,
    attempts INTEGER NOT NULL DEFAULT 0,
    event BLOB
);
CREATE INDEX IF NOT EXISTS jobs_by_seq ON jobs (seq);
-- A table of its own, for an update of a job's row would write its line again, which may be long.
CREATE TABLE IF NOT EXISTS runs (
    seq INTEGER PRIMARY KEY,
    is_running INTEGER NOT NULL,
    deaths INTEGER NOT NULL DEFAULT 0
);
"""


class JournalError(Exception):
    """The journal cannot be opened: damaged, or not ours."""


class JournalHeldError(JournalError):
    """Another supervisor has the journal open."""


class PendingJob(NamedTuple):
    """A job that was accepted and has no terminal event yet."""

    job_id: str
    line: bytes
    attempts: int
    deaths: int  # of daemons, while the job ran


class Journal:
    """Raises `JournalError` where the file cannot serve, with a sentence that says why."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Events that a full disk kept out of the file: written as soon as it takes them.
        self._unrecorded: dict[str, bytes] = {}
        _create(path)
        try:
            # Absolute, for SQLite has a special meaning for some names (`:memory:`).
            self._db = sqlite3.connect(
                path.absolute(), timeout=_LOCK_TIMEOUT_S, isolation_level=None
            )
            # Ours alone: a second supervisor on it would run every job twice. Without fsync at
            # each commit rows survive any death of processes, though not of the machine's power.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise JournalError(f"the journal {path} has version {version}, not {_VERSION}")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            fault = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if fault != "ok":
                raise JournalError(f"the journal {path} is damaged: {fault}")
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
            self._seq, self._event_bytes = self._db.execute(
                "SELECT coalesce(CAST(max(seq) AS INTEGER), 0), "
                "coalesce(sum(length(event)), 0) FROM jobs"
            ).fetchone()
            self._forget_runs()
            self._db.execute("UPDATE runs SET deaths = deaths + 1, is_running = 0 WHERE is_running")
            self._file = _identity(path)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                text = f"cannot open the journal {path}: another supervisor holds it"
                raise JournalHeldError(text) from None
            raise JournalError(f"cannot open the journal {path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"the journal {path} is damaged or no journal: {error}; move it away to start anew"
            ) from None
        self._until_prune = _PRUNE_EVERY

    def pending(self) -> list[PendingJob]:
        """Jobs to be finished, in the order of their acceptance."""
        rows = self._db.execute(
            "SELECT job_id, line, attempts, coalesce(deaths, 0) FROM jobs "
            "LEFT JOIN runs USING (seq) WHERE event IS NULL ORDER BY seq"
        )
        # SQLite gives any column any type. A row whose id is damaged belongs to no host.
        return [
            PendingJob(
                job_id,
                line if isinstance(line, bytes) else b"",
                attempts if isinstance(attempts, int) else 0,
                deaths if isinstance(deaths, int) else 0,
            )
            for job_id, line, attempts, deaths in rows
            if isinstance(job_id, str)
        ]

    def accept(self, job_id: str, line: bytes) -> None:
        """Record a job; an earlier finished one of its id is forgotten.

        Raises `JobError` (journal_unwritable), and then the job must not be accepted.
        """
        self._seq += 1
        try:
            if _identity(self._path) != self._file:
                raise OSError("it was removed or replaced in use")
            self.catch_up()
            self._db.execute(
                "INSERT OR REPLACE INTO jobs (job_id, seq, line) VALUES (?, ?, ?)",
                (job_id, self._seq, line),
            )
        except (sqlite3.Error, OSError) as error:
            raise JobError(
                ErrorCode.JOURNAL_UNWRITABLE,
                f"the job was not accepted, for the journal {self._path} cannot be written: "
                f"{error}",
                job_id=job_id,
            ) from None

    def charge(self, job_id: str, attempts: int) -> None:
        """Record how often the job has taken a worker down. Raises `sqlite3.Error`."""
        self._db.execute("UPDATE jobs SET attempts = ? WHERE job_id = ?", (attempts, job_id))

    def note_running(self, job_id: str) -> None:
        """Record that the job runs, until it ends or waits again. Raises `sqlite3.Error`."""
        self._db.execute(
            "INSERT INTO runs (seq, is_running) SELECT seq, 1 FROM jobs WHERE job_id = ? "
            "ON CONFLICT (seq) DO UPDATE SET is_running = 1",
            (job_id,),
        )

    def note_waiting(self, job_id: str) -> None:
        """Record that the job, which ran, waits for another worker. Raises `sqlite3.Error`."""
        self._db.execute(
            "UPDATE runs SET is_running = 0 WHERE seq = (SELECT seq FROM jobs WHERE job_id = ?)",
            (job_id,),
        )

    def note_clean_stop(self) -> None:
        """No job that runs now is charged if the daemon is killed. Raises `sqlite3.Error`."""
        self._db.execute("UPDATE runs SET is_running = 0 WHERE is_running")

    def finish(self, job_id: str, event: bytes) -> None:
        """Record the terminal event, newline included.

        Raises `sqlite3.Error`, and then `catch_up` is to be called until it does not.
        """
        self._unrecorded[job_id] = event
        self.catch_up()
        self._until_prune -= 1
        self._event_bytes += len(event)
        if self._until_prune == 0:
            self._until_prune = _PRUNE_EVERY
            self._forget(self._seq - _KEPT_EVENTS)
            self._forget_runs()
        if self._event_bytes > _KEPT_BYTES:
            self._forget_bytes()

    def catch_up(self) -> None:
        """Record the events that could not be recorded yet. Raises `sqlite3.Error`."""
        for job_id, event in list(self._unrecorded.items()):
            self._db.execute(
                "UPDATE jobs SET event = ?, line = NULL WHERE job_id = ?", (event, job_id)
            )
            del self._unrecorded[job_id]

    def _forget_bytes(self) -> None:
        # Those that were forgotten or replaced meanwhile are still counted: now they are not.
        last, self._event_bytes = self._db.execute(
            "SELECT coalesce(max(seq) FILTER (WHERE bytes > :most), 0), "
            "coalesce(max(bytes) FILTER (WHERE bytes <= :most), 0) FROM "
            "(SELECT seq, sum(length(event)) OVER (ORDER BY seq DESC) AS bytes FROM jobs "
            "WHERE event IS NOT NULL)",
            {"most": _KEPT_BYTES * 3 // 4},
        ).fetchone()
        self._forget(last)

    def _forget(self, last: int) -> None:
        """The events of the jobs up to this one in the order of acceptance."""
        self._db.execute("DELETE FROM jobs WHERE event IS NOT NULL AND seq <= ?", (last,))

    def _forget_runs(self) -> None:
        """The runs of the jobs that have ended, or were replaced."""
        self._db.execute(
            "DELETE FROM runs WHERE NOT EXISTS "
            "(SELECT 1 FROM jobs WHERE jobs.seq = runs.seq AND event IS NULL)"
        )

    def events(self, job_ids: list[str] | None) -> Iterator[bytes]:
        """Terminal events that are there when their turn comes: of these jobs, or of all, oldest
        first. Read one by one, for together they may be large; empty for a job that has none.
        Raises `sqlite3.Error`."""
        for job_id in self._finished_ids() if job_ids is None else job_ids:
            row = self._db.execute("SELECT event FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
            event = self._unrecorded.get(job_id) or (row and row[0])
            yield event if isinstance(event, bytes) and _is_line(event) else b""

    def _finished_ids(self) -> list[str]:
        rows = self._db.execute("SELECT job_id FROM jobs WHERE event IS NOT NULL ORDER BY seq")
        return [job_id for (job_id,) in rows if isinstance(job_id, str)] + list(self._unrecorded)

    def close(self) -> None:
        """Fold the write-ahead log into the file."""
        with contextlib.suppress(sqlite3.Error):  # the disk is still full, as was told
            self.catch_up()
        self._db.close()


def _create(path: Path) -> None:
    """Make the file for its owner alone, because job lines may hold pictures and prompts. SQLite
    gives the files that it makes beside it the same mode. What is wrong SQLite tells later."""
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _is_line(event: bytes) -> bool:
    """Whether an event is one line, as it was recorded."""
    return event.startswith(b"{") and event.endswith(b"}\n") and b"\n" not in event[:-1]


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file this is, whatever its name; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
