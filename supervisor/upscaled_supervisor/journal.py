"""Accepted jobs on disk, so that they outlive the supervisor.

One SQLite file in WAL mode, one row per job. A job is pending until its terminal event is recorded;
the event is kept for hosts that missed it. A row is committed before the host is answered.

A second table lists the jobs that run. If some still run when a journal is opened, the former
daemon was killed, and one of these jobs may be the reason: each is charged with that kill.
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
# Another process, such as a backup, may hold the file for a moment.
_LOCK_TIMEOUT_S = 0.2
# Terminal events that are kept, and their bytes, because a result may hold a picture. The oldest
# are deleted first, a quarter of the bytes at once.
_KEPT_EVENTS = 100_000
_KEPT_BYTES = 2**30
# Finished jobs between two clean-ups.
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
-- A table of its own: an update of a job's row would write its line again, which may be long.
CREATE TABLE IF NOT EXISTS runs (
    seq INTEGER PRIMARY KEY,
    is_running INTEGER NOT NULL,
    deaths INTEGER NOT NULL DEFAULT 0
);
"""


class JournalError(Exception):
    """The journal cannot be opened: it is damaged, or no journal."""


class JournalHeldError(JournalError):
    """Another supervisor has the journal open."""


class PendingJob(NamedTuple):
    """A job that was accepted and has no terminal event yet."""

    job_id: str
    line: bytes
    attempts: int
    daemon_kills: int  # while the job ran


class Journal:
    """Opens the file or creates it. Raises `JournalError` with a sentence if that fails."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Events that a full disk has kept out of the file, to be written when there is room.
        self._unrecorded: dict[str, bytes] = {}
        _create(path)
        try:
            # Absolute, because some names have a special meaning for SQLite (`:memory:`).
            self._db = sqlite3.connect(
                path.absolute(), timeout=_LOCK_TIMEOUT_S, isolation_level=None
            )
            with contextlib.ExitStack() as failed:
                failed.callback(self._db.close)
                self._begin()
                failed.pop_all()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                text = f"cannot open the journal {path}: another supervisor holds it"
                raise JournalHeldError(text) from None
            # SQLite's own words for a missing or read-only folder do not name it.
            text = f"cannot open the journal {path}: {error}; its folder must exist, be writable"
            raise JournalError(f"{text}, have room, and be on a local disk") from None
        # SQLite quotes a damaged schema, whose bytes may be no text.
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise _damaged(path, error) from None
        self._until_prune = _PRUNE_EVERY

    def _begin(self) -> None:
        """Take the file for this process alone, and check it."""
        self._db.text_factory = _text
        # A second supervisor on the same file would run every job twice. NORMAL does not call
        # fsync at each commit: a row survives any kill, but not a loss of power.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise JournalError(f"the journal {self._path} has version {version}, not {_VERSION}")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        fault = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if fault != "ok":
            raise JournalError(f"the journal {self._path} is damaged: {fault}")
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._seq, self._event_bytes = self._db.execute(
            "SELECT coalesce(CAST(max(seq) AS INTEGER), 0), "
            "coalesce(sum(length(event)), 0) FROM jobs"
        ).fetchone()
        self._forget_runs()
        self._db.execute("UPDATE runs SET deaths = deaths + 1, is_running = 0 WHERE is_running")
        self._file = _identity(self._path)

    def pending(self) -> list[PendingJob]:
        """The jobs without a terminal event, in the order of their acceptance. Raises
        `JournalError` if the file is damaged where `quick_check` does not look."""
        try:
            rows = self._db.execute(
                "SELECT job_id, line, attempts, coalesce(deaths, 0) FROM jobs "
                "LEFT JOIN runs USING (seq) WHERE event IS NULL ORDER BY seq"
            ).fetchall()
        except sqlite3.DatabaseError as error:
            raise _damaged(self._path, error) from None
        # SQLite may return any type for any column. A job with a damaged id is skipped.
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
        """Record a job. The event of an earlier job of its id is forgotten.

        Raises `JobError` (journal_unwritable), and then the job must not be accepted.
        """
        self._seq += 1
        try:
            if _identity(self._path) != self._file:
                raise OSError("it was removed or replaced while in use")
            self.catch_up()
            self._db.execute(
                "INSERT OR REPLACE INTO jobs (job_id, seq, line) VALUES (?, ?, ?)",
                (job_id, self._seq, line),
            )
        except (sqlite3.Error, OSError) as error:
            raise JobError(
                ErrorCode.JOURNAL_UNWRITABLE,
                f"the job was not accepted: the journal {self._path} cannot be written: {error}",
                job_id=job_id,
            ) from None

    def charge(self, job_id: str, attempts: int) -> None:
        """Record the attempts that the job is charged with. Raises `sqlite3.Error`."""
        self._db.execute("UPDATE jobs SET attempts = ? WHERE job_id = ?", (attempts, job_id))

    def mark_running(self, job_id: str) -> None:
        """Record that the job runs. Raises `sqlite3.Error`."""
        self._db.execute(
            "INSERT INTO runs (seq, is_running) SELECT seq, 1 FROM jobs WHERE job_id = ? "
            "ON CONFLICT (seq) DO UPDATE SET is_running = 1",
            (job_id,),
        )

    def mark_waiting(self, job_id: str) -> None:
        """Record that the job runs no longer. Raises `sqlite3.Error`."""
        self._db.execute(
            "UPDATE runs SET is_running = 0 WHERE seq = (SELECT seq FROM jobs WHERE job_id = ?)",
            (job_id,),
        )

    def mark_clean_stop(self) -> None:
        """Charge no job if the daemon is killed from now on. Raises `sqlite3.Error`."""
        self._db.execute("UPDATE runs SET is_running = 0 WHERE is_running")

    def finish(self, job_id: str, event: bytes) -> None:
        """Record the terminal event, newline included.

        Raises `sqlite3.Error`. Call `catch_up` then, until it succeeds.
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
        """Record the events that could not be recorded before. Raises `sqlite3.Error`."""
        for job_id, event in list(self._unrecorded.items()):
            self._db.execute(
                "UPDATE jobs SET event = ?, line = NULL WHERE job_id = ?", (event, job_id)
            )
            del self._unrecorded[job_id]

    def _forget_bytes(self) -> None:
        # `_event_bytes` also counts events that were deleted or replaced: this corrects it.
        last, self._event_bytes = self._db.execute(
            "SELECT coalesce(max(seq) FILTER (WHERE bytes > :most), 0), "
            "coalesce(max(bytes) FILTER (WHERE bytes <= :most), 0) FROM "
            "(SELECT seq, sum(length(event)) OVER (ORDER BY seq DESC) AS bytes FROM jobs "
            "WHERE event IS NOT NULL)",
            {"most": _KEPT_BYTES * 3 // 4},
        ).fetchone()
        self._forget(last)

    def _forget(self, last: int) -> None:
        """Delete the events of the jobs up to this one, in the order of acceptance."""
        self._db.execute("DELETE FROM jobs WHERE event IS NOT NULL AND seq <= ?", (last,))

    def _forget_runs(self) -> None:
        """Delete the runs of the jobs that have ended or were replaced."""
        self._db.execute(
            "DELETE FROM runs WHERE NOT EXISTS "
            "(SELECT 1 FROM jobs WHERE jobs.seq = runs.seq AND event IS NULL)"
        )

    def events(self, job_ids: list[str] | None) -> Iterator[bytes]:
        """The terminal events of these jobs, or of all, oldest first; empty for a job without one.

        Each is read when it is asked for, because together they may be large. Raises
        `sqlite3.Error`.
        """
        for job_id in self._finished_ids() if job_ids is None else job_ids:
            row = self._db.execute("SELECT event FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
            event = self._unrecorded.get(job_id) or (row and row[0])
            yield event if isinstance(event, bytes) and _is_line(event) else b""

    def _finished_ids(self) -> list[str]:
        rows = self._db.execute("SELECT job_id FROM jobs WHERE event IS NOT NULL ORDER BY seq")
        return [job_id for (job_id,) in rows if isinstance(job_id, str)] + list(self._unrecorded)

    def close(self) -> None:
        """Fold the write-ahead log into the file."""
        with contextlib.suppress(sqlite3.Error):  # the disk is still full, which was logged
            self.catch_up()
        self._db.close()


def _create(path: Path) -> None:
    """Create the file, readable only to its owner: job lines may hold pictures and prompts.

    SQLite gives the files beside it the same mode. It reports errors when it opens the file.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _damaged(path: Path, error: Exception) -> JournalError:
    return JournalError(
        f"the journal {path} is damaged or no journal: {error}; move it away, and a new one is made"
    )


def _text(data: bytes) -> str | bytes:
    """A text of the file; damaged text stays bytes, as if SQLite had returned another type."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _is_line(event: bytes) -> bool:
    """True if an event is one line, as it was recorded."""
    return event.startswith(b"{") and event.endswith(b"}\n") and b"\n" not in event[:-1]


def _identity(path: Path) -> tuple[int, int] | None:
    """The identity of the file that has this name; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
