"""The calls whose jobs wait in the client, and the ids of the jobs that the daemon holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from upscaled.call import Call

AnyCall = Call[Any]


class Backlog:
    """First in, first out. A waiting call can be removed. Hold the client's lock.

    Each daemon has a backlog of its own.
    """

    def __init__(self, waiting: Iterable[AnyCall] = (), held: Iterable[AnyCall] = ()) -> None:
        """waiting: the calls to write to the daemon, in this order. held: those whose jobs it has
        by its journal."""
        # Calls that the daemon had no room for are written first, because they are older. By id, in
        # order.
        self._refused: dict[str, AnyCall] = {}
        self._waiting: dict[str, AnyCall] = {call.job_id: call for call in waiting}
        # From the lines that were written and the daemon's messages. Also jobs whose calls have
        # ended, and jobs of a journal.
        self._held: set[str] = {call.job_id for call in held}
        # Held jobs that are neither accepted nor refused yet.
        self._unanswered: set[str] = set()
        # Jobs that the daemon may hold, learned from its `queue_full`.
        self._room = float("inf")
        self._is_stopped = False

    @property
    def is_written(self) -> bool:
        """True if nothing waits to be written, or may have to be written again."""
        may_come_back = self._room != float("inf") and self._unanswered
        return not (self._refused or self._waiting or may_come_back)

    def holds(self, job_id: str) -> bool:
        """True if the daemon has, or may have, a job of that id."""
        return job_id in self._held

    def is_waiting(self, call: AnyCall) -> bool:
        """True if the call's job is not at the daemon."""
        return call.job_id in self._refused or call.job_id in self._waiting

    def add(self, call: AnyCall) -> None:
        """Let the call wait to be written."""
        self._waiting[call.job_id] = call

    def remove(self, call: AnyCall) -> None:
        """Take a call out."""
        self._refused.pop(call.job_id, None)
        self._waiting.pop(call.job_id, None)

    def take(self) -> AnyCall | None:
        """The next call to write; None if there is none, or no room for it. From now on the daemon
        holds its job."""
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
        """The daemon has accepted this job, which may be another host's."""
        self._held.add(job_id)
        self._unanswered.discard(job_id)

    def ended(self, job_id: str) -> None:
        """A job has ended. After each `room` ends one more job is written at a time, because the
        daemon may have more room now."""
        self._unanswered.discard(job_id)
        if job_id in self._held:
            self._held.remove(job_id)
            if self._room != float("inf"):
                self._room += 1 / self._room

    def wait_for_room(self, call: AnyCall) -> bool:
        """The daemon's queue is full: the call waits until a job ends. False if the daemon holds no
        job that could end."""
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

    def _let_go(self, call: AnyCall) -> None:
        self._held.discard(call.job_id)
        self._unanswered.discard(call.job_id)
