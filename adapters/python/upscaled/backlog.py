"""The calls whose jobs wait in the client, and which jobs the daemon holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from upscaled.call import Call

AnyCall = Call[Any]


class Backlog:
    """First in, first out; and what waits can be taken back. Hold the client's lock."""

    def __init__(self) -> None:
        # Those that the daemon had no room for go first: they are older. By id, in order.
        self._refused: dict[str, AnyCall] = {}
        self._waiting: dict[str, AnyCall] = {}
        # By what was written and what the daemon says: also jobs whose calls have ended, and a
        # journal's.
        self._held: set[str] = set()
        # Those of them that are neither accepted nor refused yet.
        self._unanswered: set[str] = set()
        # Jobs that the daemon may hold, learned from its `queue_full`.
        self._room = float("inf")
        self._is_stopped = False

    @property
    def is_written(self) -> bool:
        """Whether nothing waits to be written, or to be written again."""
        may_come_back = self._room != float("inf") and self._unanswered
        return not (self._refused or self._waiting or may_come_back)

    def holds(self, job_id: str) -> bool:
        """Whether the daemon has a job of that id, or may have."""
        return job_id in self._held

    def is_waiting(self, call: AnyCall) -> bool:
        """Whether the daemon does not have the call's job."""
        return call.job_id in self._refused or call.job_id in self._waiting

    def add(self, call: AnyCall) -> None:
        """The call waits to be written."""
        self._waiting[call.job_id] = call

    def remove(self, call: AnyCall) -> None:
        """The call waits no more."""
        self._refused.pop(call.job_id, None)
        self._waiting.pop(call.job_id, None)

    def take(self) -> AnyCall | None:
        """The next call to write, which the daemon holds from now on; None if there is none, or no
        room for it."""
        if self._is_stopped or len(self._held) + 1 > self._room:
            return None
        calls = self._refused or self._waiting
        if not calls:
            return None
        call = calls.pop(next(iter(calls)))
        self._held.add(call.job_id)
        self._unanswered.add(call.job_id)
        return call

    def accepted(self, job_id: str) -> None:
        """The daemon has accepted this job, which may be none of ours."""
        self._held.add(job_id)
        self._unanswered.discard(job_id)

    def ended(self, job_id: str) -> None:
        """A job has ended. One more is tried per `room` of them, because the daemon may have got
        more room."""
        self._unanswered.discard(job_id)
        if job_id in self._held:
            self._held.remove(job_id)
            if self._room != float("inf"):
                self._room += 1 / self._room

    def wait_for_room(self, call: AnyCall) -> bool:
        """The daemon's queue is full: the call waits until a job ends. False if the daemon holds
        none that could."""
        self._let_go(call)
        if not self._held:
            return False
        self._room = len(self._held)
        self._refused[call.job_id] = call
        return True

    def wait_for_next(self, call: AnyCall) -> None:
        """The daemon takes no more jobs: the call waits for the next daemon."""
        self._let_go(call)
        self._is_stopped = True
        self._refused[call.job_id] = call

    def restart(self, calls: Iterable[AnyCall], held: Iterable[AnyCall]) -> None:
        """The daemon is gone: what waits from now on, in order, and what the next one holds,
        because it has the same journal."""
        self.__init__()  # type: ignore[misc]
        for call in calls:
            self._waiting[call.job_id] = call
        self._held.update(call.job_id for call in held)

    def _let_go(self, call: AnyCall) -> None:
        self._held.discard(call.job_id)
        self._unanswered.discard(call.job_id)
