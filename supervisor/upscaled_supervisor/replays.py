"""Recorded terminal events that the host asks for again.

They are sent in portions, as fast as the host reads, so that all other work continues.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator

from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.outbox import Outbox
from upscaled_supervisor.journal import Journal

# No event is added while this much waits for the host.
_PORTION_BYTES = 256 * 1024
# Ids looked up per portion.
_PORTION_IDS = 1000
# Requests remembered while the journal is not open yet.
_EARLY_REQUESTS = 1024


class Replays:
    """The requests in order. `refuse` answers with an error if the journal cannot be read."""

    def __init__(self, outbox: Outbox, *, refuse: Callable[[JobError], object]) -> None:
        self._outbox = outbox
        self._refuse = refuse
        self._journal: Journal | None = None
        self._requested: deque[Iterator[bytes]] = deque()
        self._early: deque[list[str] | None] = deque(maxlen=_EARLY_REQUESTS)

    def request(self, job_ids: list[str] | None) -> None:
        """Have the events of these jobs sent again, or of all."""
        if self._journal is not None:
            self._requested.append(self._journal.events(job_ids))
        else:
            self._early.append(job_ids)

    def open(self, journal: Journal) -> None:
        """Answer from this journal, also the requests that came before."""
        self._journal = journal
        while self._early:
            self.request(self._early.popleft())

    @property
    def is_waiting(self) -> bool:
        """True if events wait to be sent."""
        return bool(self._requested)

    @property
    def can_send(self) -> bool:
        """True if events wait and the host has read what came before."""
        return self.is_waiting and self._outbox.waiting_bytes < _PORTION_BYTES

    def send(self) -> None:
        """Send the next portion."""
        for _ in range(_PORTION_IDS):
            if not self.can_send:
                return
            try:
                event = next(self._requested[0], None)
            except sqlite3.Error as error:
                event = None
                text = f"the journal cannot be read: {error}"
                self._refuse(JobError(ErrorCode.INTERNAL, text))
            if event is None:
                self._requested.popleft()
            elif event:
                self._outbox.put(event)

    def clear(self) -> None:
        """Send no more: the daemon ends now."""
        self._requested.clear()
