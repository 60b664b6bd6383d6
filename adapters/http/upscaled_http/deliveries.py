"""Webhooks that are not delivered yet: a table in the registry's file.

A delivery is recorded in the same transaction as the end of its job, so a crash cannot separate
the two.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from upscaled_webhooks.deliveries import Delivery, Receiver

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deliveries (
    job_id TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    host TEXT NOT NULL,
    url TEXT NOT NULL,
    body BLOB NOT NULL,
    created_at REAL NOT NULL,
    due_at REAL NOT NULL,
    attempts INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS deliveries_by_receiver ON deliveries (owner, host, due_at);
"""


class RegistryDeliveries:
    """`Deliveries`. A job has at most one, so the job's id is the message's too."""

    outages: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.executescript(_SCHEMA)

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM deliveries").fetchone()[0])

    def add(self, receiver: Receiver, delivery: Delivery) -> None:
        """Record a delivery. A second delivery of the same job changes nothing."""
        self._db.execute(
            "INSERT OR IGNORE INTO deliveries (owner, host, job_id, url, body, created_at, due_at, "
            "attempts) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*receiver, *delivery[1:]),
        )

    def receivers(self) -> dict[Receiver, float]:
        """Each receiver that has deliveries, and the time when its first one is due."""
        rows = self._db.execute("SELECT owner, host, min(due_at) FROM deliveries GROUP BY 1, 2")
        return {Receiver(owner, host): due_at for owner, host, due_at in rows}

    def next(self, receiver: Receiver, busy: Collection[str]) -> Delivery | None:
        """The receiver's delivery that is due first, without those of the jobs in `busy`."""
        rows = self._db.execute(
            "SELECT job_id, job_id, url, body, created_at, due_at, attempts FROM deliveries "
            "WHERE owner = ? AND host = ? ORDER BY due_at LIMIT ?",
            (*receiver, len(busy) + 1),
        )
        return next((Delivery(*row) for row in rows if row[0] not in busy), None)

    def postpone(self, delivery: Delivery, due_at: float) -> None:
        """Record a failed attempt, and the time of the next one."""
        self._db.execute(
            "UPDATE deliveries SET due_at = ?, attempts = attempts + 1 WHERE job_id = ?",
            (due_at, delivery.job_id),
        )

    def remove(self, delivery: Delivery) -> None:
        """Remove a delivery that has arrived."""
        self.forget(delivery.job_id)

    def give_up(self, delivery: Delivery, reason: str) -> None:  # noqa: ARG002 - the log has it
        """Remove a delivery that cannot be made."""
        self.forget(delivery.job_id)

    def forget(self, job_id: str) -> None:
        """Remove the job's delivery."""
        self._db.execute("DELETE FROM deliveries WHERE job_id = ?", (job_id,))
