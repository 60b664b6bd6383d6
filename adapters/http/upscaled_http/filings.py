"""The pictures that the server files in its bucket: a table in the registry's file.

A picture of a batch has its row before the request is answered, and its file is in the uploads'
folder until it is filed. So a batch survives a kill of the server.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import orjson

from upscaled_http.messages import FiledPicture, FilingStatus, PipelineResult, Problem
from upscaled_http.records import time_of

_SCHEMA = """
CREATE TABLE IF NOT EXISTS filings (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    picture_id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    batch_id TEXT,
    name TEXT,
    created_at REAL NOT NULL,
    finished_at REAL,
    webhook TEXT,
    fields BLOB NOT NULL,
    job_id TEXT,
    is_new INTEGER NOT NULL DEFAULT 0,
    folder TEXT,
    score REAL,
    outcome BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS filings_open ON filings (seq) WHERE finished_at IS NULL;
CREATE INDEX IF NOT EXISTS filings_by_batch ON filings (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS filings_by_owner ON filings (owner, is_new, folder, score);
CREATE INDEX IF NOT EXISTS filings_by_end ON filings (finished_at) WHERE finished_at IS NOT NULL;
"""
_COLUMNS = (
    "picture_id, owner, batch_id, name, created_at, finished_at, webhook, fields, job_id, is_new, "
    "outcome"
)
_SELECT = f"SELECT {_COLUMNS} FROM filings "  # noqa: S608


@dataclass(slots=True, kw_only=True, eq=False)
class Filing:
    """One picture on its way to the bucket.

    fields: of the request, for the job that upscales it. job_id: that job's, if there is one.
    is_new: the bucket had no record of it before. outcome: the pipeline's result, or a problem.
    is_running, detail: what happens now; not in the table.
    """

    picture_id: str
    owner: str
    created_at: float
    batch_id: str | None = None
    name: str | None = None
    webhook: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    finished_at: float | None = None
    job_id: str | None = None
    is_new: bool = False
    outcome: dict[str, Any] = field(default_factory=dict)
    is_running: bool = False
    detail: str | None = None

    @property
    def status(self) -> FilingStatus:
        """The client's word for it."""
        if self.finished_at is None:
            return "processing" if self.is_running else "waiting"
        return "failed" if "problem" in self.outcome else "filed"

    def body(self) -> FiledPicture:
        """The picture as its owner sees it."""
        outcome = self.outcome
        problem, result = outcome.get("problem"), outcome.get("result")
        return FiledPicture(
            picture_id=self.picture_id,
            name=self.name,
            status=self.status,
            detail=self.detail,
            job_id=self.job_id,
            created_at=time_of(self.created_at),
            finished_at=time_of(self.finished_at),
            success=outcome.get("success"),
            message=outcome.get("message"),
            result=None if result is None else PipelineResult(**result),
            problem=None if problem is None else Problem(**problem),
        )


class FolderCount(NamedTuple):
    """The new pictures of one folder, and the sum of the seconds from receipt to record."""

    folder: str
    pictures: int
    seconds: float


class Filings:
    """The methods raise `sqlite3.Error` if the disk is full or fails."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.executescript(_SCHEMA)

    def add(self, filing: Filing) -> None:
        """Record a new picture, whether it has ended or not."""
        self._db.execute(
            f"INSERT INTO filings ({_COLUMNS}, folder, score) "  # noqa: S608
            f"VALUES ({', '.join('?' * 13)})",
            (
                filing.picture_id,
                filing.owner,
                filing.batch_id,
                filing.name,
                filing.created_at,
                filing.finished_at,
                filing.webhook,
                orjson.dumps(filing.fields),
                *_state(filing),
            ),
        )

    def update(self, filing: Filing) -> None:
        """Record the changes of a picture."""
        self._db.execute(
            "UPDATE filings SET finished_at = ?, job_id = ?, is_new = ?, outcome = ?, folder = ?, "
            "score = ? WHERE picture_id = ?",
            (filing.finished_at, *_state(filing), filing.picture_id),
        )

    def open(self) -> list[Filing]:
        """The pictures that have not ended, in the order of their receipt."""
        return self._all("WHERE finished_at IS NULL ORDER BY seq")

    def batch(self, owner: str, batch_id: str) -> list[Filing]:
        """The pictures of a batch, in the order of the request."""
        return self._all("WHERE batch_id = ? AND owner = ? ORDER BY seq", batch_id, owner)

    def newest(self, owner: str, limit: int) -> list[Filing]:
        """The pictures that were received last, the newest first."""
        return self._all("WHERE owner = ? ORDER BY seq DESC LIMIT ?", owner, limit)

    def folders(self, owner: str) -> list[FolderCount]:
        """Counts of an owner's new pictures."""
        rows = self._db.execute(
            "SELECT folder, count(*), sum(finished_at - created_at) FROM filings "
            "WHERE owner = ? AND is_new = 1 GROUP BY folder",
            (owner,),
        )
        return [FolderCount(*row) for row in rows]

    def scores(self, owner: str, edges: Sequence[float]) -> list[int]:
        """How many new pictures scored less than each edge, but not less than the one before it;
        the last number counts the others."""
        below = ", ".join("coalesce(sum(score < ?), 0)" for _ in edges)
        *counts, all_of_them = self._db.execute(
            f"SELECT {below}, count(score) FROM filings WHERE owner = ? AND is_new = 1",  # noqa: S608
            (*edges, owner),
        ).fetchone()
        totals = [0, *counts, all_of_them]
        return [total - before for before, total in pairwise(totals)]

    def remove_ended(self, before: float) -> None:
        """Remove the pictures that ended before this time."""
        self._db.execute("DELETE FROM filings WHERE finished_at <= ?", (before,))

    def _all(self, clause: str, *values: Any) -> list[Filing]:
        return [_filing(row) for row in self._db.execute(_SELECT + clause, values)]


def _state(filing: Filing) -> tuple[Any, ...]:
    """The values of the columns from `job_id` on."""
    result = filing.outcome.get("result", {})
    return (
        filing.job_id,
        filing.is_new,
        orjson.dumps(filing.outcome),
        result.get("folder"),
        result.get("quality_score"),
    )


def _filing(row: tuple[Any, ...]) -> Filing:
    return Filing(
        picture_id=row[0],
        owner=row[1],
        batch_id=row[2],
        name=row[3],
        created_at=row[4],
        finished_at=row[5],
        webhook=row[6],
        fields=orjson.loads(row[7]),
        job_id=row[8],
        is_new=bool(row[9]),
        outcome=orjson.loads(row[10]),
    )
