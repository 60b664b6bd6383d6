"""The states of a call, from its submit to its end:

    add ─> waits ─> written ─> accepted ─> settled
             ▲         │  │        │          ▲
             │         │  └────────┼── cancel, deadline: by the daemon's answer, or the grace
             └─ lost, or refused   └── daemon gone: by the next daemon's journal, or as gone
                without room

A cancel settles a call at once if its job is not written yet.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from upscaled.backlog import Backlog
from upscaled.call import Call
from upscaled.callbacks import guarded
from upscaled.channel import Channel
from upscaled.errors import (
    DaemonGoneError,
    UpscaledError,
    closed_error,
    duplicate_error,
    error_of,
)
from upscaled.jobline import line_of
from upscaled.messages import Message
from upscaled.options import ClientOptions
from upscaled.restarts import Restarts
from upscaled.timers import Timers

# From a daemon's `ready` to the end of a call that is not in its journal.
_RESUME_S = 30.0

# Ids in one `replay`, so that its line stays short.
_REPLAYED_IDS = 1000


class Delivery:
    """The open calls. Hold `lock` for every method but `flush`; call that after the release."""

    def __init__(self, options: ClientOptions, restarts: Restarts, timers: Timers) -> None:
        self._options = options
        self._restarts = restarts
        self._timers = timers
        # Reentrant: a signal handler may end a call in the middle of anything.
        self.lock = threading.RLock()
        self._deferred: deque[Callable[[], None]] = deque()
        self.calls: dict[str, Call[Any]] = {}
        # Calls whose end is known, but not reported to the caller yet.
        self.unreported: set[Call[Any]] = set()
        self.backlog = Backlog()
        self.channel: Channel | None = None
        self.is_closing = False
        # Once the daemon's input has ended, nothing can be sent again.
        self.has_ended_input = False
        # Set while closing, once every job was written.
        self.written = threading.Event()

    def defer(self, call: Callable[[], None]) -> None:
        """Call this after the release of the lock."""
        self._deferred.append(call)

    def flush(self) -> None:
        """Call what was deferred."""
        while self._deferred:
            with contextlib.suppress(IndexError):
                self._deferred.popleft()()

    def add(self, call: Call[Any]) -> None:
        """Give a daemon the call's job. Raises `InvalidJobError` and `ShuttingDownError`."""
        if self.is_closing:
            raise closed_error(call.job_id)
        if call.job_id in self.calls or self.backlog.holds(call.job_id):
            raise duplicate_error(call.job_id)
        self.calls[call.job_id] = call
        self._start_deadline(call)
        self.backlog.add(call)
        self.write()

    def write(self) -> None:
        """Write the waiting jobs, as long as there is room."""
        channel = self.channel
        while channel is not None and channel.has_room:
            call = self.backlog.take()
            if call is None:
                break
            channel.send(call.line)
        if self.is_closing and (channel is None or self.backlog.is_written):
            self.written.set()

    # --- ends ---------------------------------------------------------------------------------

    def end(self, call: Call[Any], error: UpscaledError) -> bool:
        """The caller or the deadline ends a call; False if it has ended. The daemon gets some time
        to end the job."""
        if self.calls.get(call.job_id) is not call:
            return False
        if call.ending is not None:
            return True
        call.ending = error
        if self.backlog.is_waiting(call):
            self.settle(call, error)
            return True
        self._send_cancel(call)
        grace_s = self._options.cancel_grace_s
        text = f"{error}; the daemon did not confirm within {grace_s:g} s that the job has ended"
        late = error_of({**error.details, "error": text})
        self._start_timer(call, grace_s, lambda: self.settle(call, late))
        return True

    def settle(self, call: Call[Any], outcome: Message | UpscaledError) -> None:
        """Settle the call, unless it is settled already."""
        if self.calls.get(call.job_id) is not call:
            return
        del self.calls[call.job_id]
        self.backlog.remove(call)
        if call.timer is not None:
            call.timer.cancel()
        self.unreported.add(call)
        self.defer(lambda: self._report_end(call, outcome))
        self.write()

    def settle_all(self, error: DaemonGoneError) -> None:
        """Settle every open call with this error."""
        for call in list(self.calls.values()):
            self.settle(call, error.of_job(call.job_id))
        self.written.set()

    def _report_end(self, call: Call[Any], outcome: Message | UpscaledError) -> None:
        call.settle(outcome)
        self.unreported.discard(call)
        if self._options.on_settled is not None:
            guarded(self._options.on_settled)(call)

    def _start_deadline(self, call: Call[Any]) -> None:
        """Start the job's time. It starts again when a daemon accepts the job: before that it
        limits the wait."""
        if call.timeout_s is not None:
            self._start_timer(call, call.timeout_s, lambda: self.end(call, call.late_error()))

    def _start_timer(self, call: Call[Any], delay_s: float, then: Callable[[], object]) -> None:
        def fire() -> None:
            with self.lock:
                then()
            self.flush()

        if call.timer is not None:
            call.timer.cancel()
        call.timer = self._timers.start(delay_s, fire)

    def _send_cancel(self, call: Call[Any]) -> None:
        if self.channel is not None:
            self.channel.send(line_of({"type": "cancel", "job_id": call.job_id}))

    # --- the daemon's messages -----------------------------------------------------------------

    def handle(self, kind: object, job_id: str, message: Message) -> None:
        """Handle a message about a job, which may be another host's."""
        call = self.calls.get(job_id)
        if kind in ("accepted", "progress"):
            if kind == "accepted":
                self.backlog.accepted(job_id)
            if call is not None:
                self._accept(call)
            if self.is_closing:
                self.write()
        elif kind == "error" and call is not None and self._waits_again(call, message):
            self.write()
        elif kind in ("result", "error"):
            self.backlog.ended(job_id)
            if call is None:
                self.write()
            else:
                self.settle(call, message if kind == "result" else call.error_from(message))

    def _accept(self, call: Call[Any]) -> None:
        call.is_resuming = False
        if not call.is_accepted:
            call.is_accepted = True
            call.line = b""
            if call.ending is None:
                self._start_deadline(call)

    def _waits_again(self, call: Call[Any], message: Message) -> bool:
        """True if a refused job waits now, for room or for the next daemon."""
        if call.is_accepted or call.ending is not None:
            return False
        code = message.get("code")
        if code == "queue_full":
            return not self.has_ended_input and self.backlog.wait_for_room(call)
        if code != "shutting_down" or self.is_closing or not self._restarts.may_lose(call):
            return False
        self.backlog.wait_for_next(call)
        return True

    # --- from one daemon to the next ----------------------------------------------------------

    def keep(self, error: DaemonGoneError, *, has_next: bool) -> None:
        """The daemon is gone. A job that no daemon accepted is sent to the next one. An accepted
        job is in the journal, if there is one. All other calls end with the error."""
        waiting, held = [], []
        for call in self.calls.values():
            is_lost = not call.is_accepted and call.ending is None
            if self.backlog.is_waiting(call) or (is_lost and self._restarts.may_lose(call)):
                waiting.append(call)
            elif call.is_accepted and self._options.journal is not None and has_next:
                call.is_resuming = True
                held.append(call)
        kept = {call.job_id for call in (*waiting, *held)}
        self.backlog = Backlog(waiting, held)
        for call in list(self.calls.values()):
            if call.job_id not in kept:
                self.settle(call, error.of_job(call.job_id))

    def resume(self, channel: Channel) -> None:
        """The next daemon has started. Ask its journal for the ends of the jobs that the last
        daemon had accepted, and write the waiting jobs."""
        self.channel = channel
        held = [call for call in self.calls.values() if call.is_resuming]
        ids = [call.job_id for call in held]
        for at in range(0, len(ids), _REPLAYED_IDS):
            channel.send(line_of({"type": "replay", "job_ids": ids[at : at + _REPLAYED_IDS]}))
        for call in held:
            if call.ending is not None:
                self._send_cancel(call)
        self.write()

    def handle_ready(self) -> None:
        """A ready daemon has read its journal: calls that are not in it end after a while."""
        lost = [call for call in self.calls.values() if call.is_resuming]
        if lost:
            self._timers.start(_RESUME_S, lambda: self._give_up(lost))

    def _give_up(self, calls: list[Call[Any]]) -> None:
        error = DaemonGoneError("the daemon ended, and its journal does not have this job")
        with self.lock:
            for call in calls:
                if call.is_resuming:
                    self.settle(call, error.of_job(call.job_id))
        self.flush()
