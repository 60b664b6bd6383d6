"""The watchers of jobs: requests that wait for an end, and streams of events.

A watcher is only notified that a job has changed, and then reads the job itself. So it cannot miss
an end, a slow watcher takes no memory, and a hundred changes wake it once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from upscaled_http.records import Record

WatcherT = TypeVar("WatcherT")


class Feed:
    """The jobs of one owner that have changed."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self._changed: dict[str, Record] = {}
        self.is_closed = False

    def put(self, record: Record) -> None:
        """Add a job that has changed."""
        self._changed[record.job_id] = record
        self.news.set()

    def take(self) -> list[Record]:
        """The jobs that have changed since the last call."""
        changed = list(self._changed.values())
        self._changed.clear()
        self.news.clear()
        return changed

    def close(self) -> None:
        """End the feed."""
        self.is_closed = True
        self.news.set()


class Watchers:
    """All watchers."""

    def __init__(self) -> None:
        self._by_job: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._feeds: dict[str, set[Feed]] = defaultdict(set)
        self.is_closed = False

    @contextmanager
    def job(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set with each change of this job."""
        with _listed(self._by_job, job_id, asyncio.Event()) as event:
            yield event

    @contextmanager
    def owner(self, owner: str) -> Iterator[Feed]:
        """The changes of all of an owner's jobs."""
        with _listed(self._feeds, owner, Feed()) as feed:
            yield feed

    def notify(self, record: Record) -> None:
        """Wake the watchers of a job that has changed."""
        for event in self._by_job.get(record.job_id, ()):
            event.set()
        for feed in self._feeds.get(record.owner, ()):
            feed.put(record)

    def close(self) -> None:
        """End every wait, because the server stops."""
        self.is_closed = True
        for events in self._by_job.values():
            for event in events:
                event.set()
        for feeds in self._feeds.values():
            for feed in feeds:
                feed.close()


@contextmanager
def _listed(table: dict[str, set[WatcherT]], key: str, watcher: WatcherT) -> Iterator[WatcherT]:
    """Have the watcher in the table while the context lasts."""
    watchers = table[key]
    watchers.add(watcher)
    try:
        yield watcher
    finally:
        watchers.discard(watcher)
        if not watchers:
            table.pop(key, None)
