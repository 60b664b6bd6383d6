"""Every HTTP job on disk: one SQLite file in WAL mode. Only the event loop uses it.

The daemon's journal cannot replace it: the journal is locked, is pruned, and has neither owners nor
times.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from upscaled_http.deliveries import RegistryDeliveries
from upscaled_http.filings import Filings
from upscaled_http.records import Pixels, Record

_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    method TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at REAL NOT NULL,
    finished_at REAL,
    expires_at REAL,
    batch_id TEXT,
    label TEXT,
    webhook TEXT,
    is_cancelled INTEGER NOT NULL DEFAULT 0,
    is_deleted INTEGER NOT NULL DEFAULT 0,
    file_name TEXT,
    file_size_bytes INTEGER,
    seconds REAL,
    line BLOB,
    more BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_open ON jobs (seq) WHERE finished_at IS NULL;
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, seq);
CREATE INDEX IF NOT EXISTS jobs_by_batch ON jobs (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_end ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_expiry ON jobs (expires_at) WHERE file_name IS NOT NULL;
CREATE TABLE IF NOT EXISTS idempotency (
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    answer_id TEXT NOT NULL,
    created_at REAL NOT NULL,
    PRIMARY KEY (owner, key)
) WITHOUT ROWID;
"""

_COLUMNS = (
    "job_id, owner, method, status, created_at, finished_at, expires_at, batch_id, label, webhook, "
    "is_cancelled, is_deleted, file_name, file_size_bytes, seconds, line, more"
)
_INSERT = f"INSERT INTO jobs ({_COLUMNS}) VALUES ({', '.join('?' * 17)})"  # noqa: S608
_SELECT = f"SELECT {_COLUMNS} FROM jobs "  # noqa: S608
_UPDATE = (
    "UPDATE jobs SET status = ?, finished_at = ?, expires_at = ?, is_cancelled = ?, "
    "is_deleted = ?, file_name = ?, file_size_bytes = ?, seconds = ?, line = ?, more = ? "
    "WHERE job_id = ?"
)
# Fields in the column `more`, as JSON.
_MORE = ("name", "priority", "retention", "started_at", "progress", "attempt", "outcome")


class RegistryError(Exception):
    """Raised if the file cannot be opened: it is damaged, or of another program."""


class Page(NamedTuple):
    """A page of the list of jobs, the newest first, after the job `before`."""

    owner: str
    status: str | None = None
    label: str | None = None
    batch_id: str | None = None
    before: str | None = None
    limit: int = 50


class Outcome(NamedTuple):
    """The number of a method's jobs that ended so, and the sum of their processing time."""

    method: str
    status: str
    jobs: int
    seconds: float


class KeptAnswer(NamedTuple):
    """The answer to a request with an `Idempotency-Key`: the id of a job or of a batch."""

    fingerprint: bytes
    answer_id: str


class Registry:
    """Raises `RegistryError` if the file cannot be used. Its methods raise `sqlite3.Error` if the
    disk is full or fails."""

    def __init__(self, path: Path) -> None:
        with suppress(OSError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        try:
            self._db = sqlite3.connect(path.absolute(), isolation_level=None)
            with ExitStack() as failed:
                failed.callback(self._db.close)
                self._begin(path.name)
                failed.pop_all()
        except sqlite3.Error as error:
            raise RegistryError(f"{path.name} cannot be opened: {error}") from None

    def _begin(self, name: str) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise RegistryError(f"{name} has version {version}, not {_VERSION}")
        self._db.execute("PRAGMA journal_mode = WAL")
        # Rows survive a kill of any process, but perhaps not a loss of power.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        self.deliveries = RegistryDeliveries(self._db)
        self.filings = Filings(self._db)
        self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def close(self) -> None:
        """Merge the write-ahead log into the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything in the context is recorded, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk may have ended it
                self._db.execute("ROLLBACK")
            raise

    # --- jobs -------------------------------------------------------------------------------

    def add(self, record: Record) -> None:
        """Record a new job."""
        self._db.execute(
            _INSERT,
            (
                record.job_id,
                record.owner,
                record.method,
                record.status,
                record.created_at,
                record.finished_at,
                record.expires_at,
                record.batch_id,
                record.label,
                record.webhook,
                *_state(record),
            ),
        )

    def update(self, record: Record) -> None:
        """Record the changes of a job."""
        self._db.execute(
            _UPDATE,
            (
                record.status,
                record.finished_at,
                record.expires_at,
                *_state(record),
                record.job_id,
            ),
        )

    def remove(self, job_id: str) -> None:
        """Remove a job."""
        self._db.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))

    def find(self, job_id: str) -> Record | None:
        """The job of this id."""
        row = self._db.execute(_SELECT + "WHERE job_id = ?", (job_id,)).fetchone()
        return None if row is None else _record(row)

    def open_jobs(self) -> list[Record]:
        """The jobs that have not ended, in the order of their submit."""
        return self._all("WHERE finished_at IS NULL ORDER BY seq")

    def page(self, page: Page) -> list[Record]:
        """The jobs of a list."""
        clauses, values = ["owner = ?", "is_deleted = 0"], [page.owner]
        for column in ("status", "label", "batch_id"):
            if (value := getattr(page, column)) is not None:
                clauses.append(f"{column} = ?")
                values.append(value)
        if page.before is not None:
            clauses.append("seq < (SELECT seq FROM jobs WHERE job_id = ? AND owner = ?)")
            values += [page.before, page.owner]
        return self._all(
            f"WHERE {' AND '.join(clauses)} ORDER BY seq DESC LIMIT ?", *values, page.limit
        )

    def expired(self, now: float) -> list[Record]:
        """The jobs whose files have expired."""
        return self._all("WHERE file_name IS NOT NULL AND expires_at <= ?", now)

    def with_files(self, owner: str, ended_before: float) -> list[Record]:
        """An owner's jobs that ended before this time and still have a file."""
        clause = "WHERE owner = ? AND file_name IS NOT NULL AND finished_at <= ?"
        return self._all(clause, owner, ended_before)

    def batch(self, owner: str, batch_id: str) -> list[Record]:
        """The jobs of a batch, in the order of their submit."""
        clause = "WHERE batch_id = ? AND owner = ? AND is_deleted = 0 ORDER BY seq"
        return self._all(clause, batch_id, owner)

    def remove_ended(self, before: float) -> None:
        """Remove the jobs without a file and the filed pictures that ended before this time, and
        older kept answers."""
        self._db.execute("DELETE FROM jobs WHERE finished_at <= ? AND file_name IS NULL", (before,))
        self.filings.remove_ended(before)
        self._db.execute("DELETE FROM idempotency WHERE created_at <= ?", (before,))

    def file_names(self) -> set[str]:
        """The file names of all results."""
        rows = self._db.execute("SELECT file_name FROM jobs WHERE file_name IS NOT NULL")
        return {name for (name,) in rows}

    def outcomes(self, owner: str) -> list[Outcome]:
        """Counts of an owner's jobs that have ended."""
        rows = self._db.execute(
            "SELECT method, status, count(*), coalesce(sum(seconds), 0) FROM jobs "
            "WHERE owner = ? AND finished_at IS NOT NULL GROUP BY method, status",
            (owner,),
        )
        return [Outcome(*row) for row in rows]

    # --- Idempotency-Key --------------------------------------------------------------------

    def kept_answer(self, owner: str, key: str) -> KeptAnswer | None:
        """The answer that this key stands for."""
        row = self._db.execute(
            "SELECT fingerprint, answer_id FROM idempotency WHERE owner = ? AND key = ?",
            (owner, key),
        ).fetchone()
        return None if row is None else KeptAnswer(*row)

    def keep_answer(self, owner: str, key: str, answer: KeptAnswer, now: float) -> None:
        """Record the answer that this key stands for."""
        self._db.execute(
            "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?)", (owner, key, *answer, now)
        )

    def forget_answer(self, owner: str, key: str, answer: KeptAnswer) -> None:
        """Remove an answer that was not given after all."""
        self._db.execute(
            "DELETE FROM idempotency WHERE owner = ? AND key = ? AND answer_id = ?",
            (owner, key, answer.answer_id),
        )

    def _all(self, clause: str, *values: Any) -> list[Record]:
        return [_record(row) for row in self._db.execute(_SELECT + clause, values)]


def _state(record: Record) -> tuple[Any, ...]:
    """The values of the columns from `is_cancelled` on, with which both statements end."""
    return (
        record.is_cancelled,
        record.is_deleted,
        record.file_name,
        record.file_size_bytes,
        record.outcome.get("processing_time"),
        record.line,
        _more(record),
    )


def _more(record: Record) -> bytes:
    more = {name: getattr(record, name) for name in _MORE}
    for name in ("input_size", "planned_size"):
        size = getattr(record, name)
        more[name] = size and tuple(size)
    return orjson.dumps(more)


def _record(row: tuple[Any, ...]) -> Record:
    more = orjson.loads(row[16])
    for name in ("input_size", "planned_size"):
        more[name] = more[name] and Pixels(*more[name])
    return Record(
        job_id=row[0],
        owner=row[1],
        method=row[2],
        status=row[3],
        created_at=row[4],
        finished_at=row[5],
        expires_at=row[6],
        batch_id=row[7],
        label=row[8],
        webhook=row[9],
        is_cancelled=bool(row[10]),
        is_deleted=bool(row[11]),
        file_name=row[12],
        file_size_bytes=row[13],
        line=row[15],
        **more,
    )
