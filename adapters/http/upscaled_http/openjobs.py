"""The jobs that have not ended, between their clients and the daemon.

    add ── row ── line ──> daemon ── accepted, progress… ──> watchers
                              │
                              └── result or error ──> row, files, watchers, `on_ended`

The row is written before the daemon gets the job, and changed after the daemon has ended it. So
after a kill at any time the next start finds the row, and resumes the job: see `handle_start`.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import orjson

from upscaled.messages import Message
from upscaled_http.config import StorageSettings
from upscaled_http.daemon import ChildDaemon
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_http.records import Record
from upscaled_http.registry import KeptAnswer, Registry
from upscaled_http.storage import Storage
from upscaled_http.takeover import Takeover, read_journal
from upscaled_http.watching import Watchers
from upscaled_protocol.errors import MEANINGS, ErrorCode

# A submit waits at most this time for the daemon's answer. Without an answer the job is accepted
# too, because its row is on disk and the next daemon gets it.
_ANSWER_S = 5.0

# Watchers hear of a new place in the queue this time after it has changed: once for many ends.
_RENUMBER_S = 0.25
# So many jobs from the begin of the queue. Events of a very long queue would take much time.
_RENUMBERED = 100

_LOG = logging.getLogger(__name__)


class OpenJobs:
    """The daemon's listener. After an `await`, a record that the caller holds may have ended."""

    def __init__(
        self, storage: Storage, settings: StorageSettings, registry: Registry, watchers: Watchers
    ) -> None:
        self._storage = storage
        self._settings = settings
        self._registry = registry
        self._watchers = watchers
        self._records: dict[str, Record] = {r.job_id: r for r in registry.open_jobs()}
        # No job has a lower priority: most servers get one priority, and need no look at each job.
        self._lowest = min((record.priority for record in self._records.values()), default=0)
        # Submits whose job the daemon has neither accepted nor refused yet.
        self._answers: dict[str, asyncio.Future[None]] = {}
        self._accepted: set[str] = set()
        # Ends that could not be written to the registry, because the disk was full.
        self._unrecorded: dict[str, Record] = {}
        self._takeover = Takeover({}, frozenset())
        self._daemon: ChildDaemon | None = None
        self._renumbering: asyncio.TimerHandle | None = None
        # When the last job ended, by the monotonic clock; the start, if none has.
        self.last_end = time.monotonic()
        self.journal_fault: str | None = None
        # Called with each job that has ended, in the transaction that writes its row: what they
        # record is recorded if and only if the end is. They may raise `sqlite3.Error`.
        self.on_recording_end: list[Callable[[Record], None]] = []
        # Called with each job that has ended, once.
        self.on_ended: list[Callable[[Record], None]] = []

    def __len__(self) -> int:
        return len(self._records)

    def attach(self, daemon: ChildDaemon) -> None:
        """Set the daemon that runs the jobs."""
        self._daemon = daemon

    def find(self, job_id: str) -> Record | None:
        """The open job of this id."""
        return self._records.get(job_id)

    def records(self) -> list[Record]:
        """All open jobs, in the order of their submit."""
        return list(self._records.values())

    @property
    def running(self) -> int:
        """The number of jobs that have started."""
        return sum(record.status == "processing" for record in self._records.values())

    def renumber(self, record: Record) -> None:
        """Have a waiting job's place as it is now."""
        before = takewhile(lambda other: other is not record, self._waiting())
        _move_up(record, sum(1 for _ in before))

    # --- requests of clients ----------------------------------------------------------------------

    async def add(self, record: Record, answer: tuple[str, KeptAnswer] | None) -> None:
        """Record a job, and send it to the daemon. answer: an `Idempotency-Key`, and what it stands
        for from now on.

        Raises `ProblemError` if the daemon refuses the job or the disk is full. The job is then
        removed again.
        """
        try:
            if answer is None:
                self._registry.add(record)
            else:
                with self._registry.transaction():
                    self._registry.add(record)
                    self._registry.keep_answer(record.owner, *answer, record.created_at)
        except sqlite3.Error as error:
            raise _registry_problem(error) from None
        self._records[record.job_id] = record
        self._lowest = min(self._lowest, record.priority)
        self._watchers.notify(record)
        accepted = asyncio.get_running_loop().create_future()
        self._answers[record.job_id] = accepted
        self._send(record)
        try:
            async with asyncio.timeout(_ANSWER_S):
                await accepted
        except TimeoutError:
            return
        except ProblemError:
            if answer is not None:
                with suppress(sqlite3.Error):
                    self._registry.forget_answer(record.owner, *answer)
            raise
        finally:
            self._answers.pop(record.job_id, None)

    def cancel(self, record: Record) -> None:
        """Ask the daemon to end a job. If none runs, the next one is asked."""
        if record.is_cancelled:
            return
        record.is_cancelled = True
        self._record(record)
        self._send_cancel(record.job_id)

    def remove(self, record: Record) -> None:
        """Cancel a job, and remove it at its end."""
        record.is_deleted = True
        if record.is_cancelled:
            self._record(record)
        self.cancel(record)

    def catch_up(self) -> None:
        """Write the ends that could not be written while the disk was full."""
        for record in list(self._unrecorded.values()):
            self._record(record)

    def ask_for_lost_ends(self, silent_s: float) -> None:
        """Ask the daemon for the ends of jobs without a message for `silent_s`. For a job that has
        not ended, nothing changes."""
        now = time.monotonic()
        silent = [one for one in self._records.values() if now - one.heard_at >= silent_s]
        for record in silent:
            record.heard_at = now
        if silent and self._daemon is not None:
            ids = [record.job_id for record in silent]
            self._daemon.send(orjson.dumps({"type": "replay", "job_ids": ids}) + b"\n")

    def unrecorded(self, job_id: str) -> Record | None:
        """A job that has ended, but whose row could not be written yet."""
        return self._unrecorded.get(job_id)

    # --- the daemon's listener --------------------------------------------------------------------

    async def prepare_start(self) -> bool:
        """Read the journal while no daemon uses it."""
        takeover = await asyncio.to_thread(read_journal, self._storage.journal, list(self._records))
        if takeover is None:
            self.journal_fault = "another process holds the journal"
            return False
        self.journal_fault = takeover.fault
        self._takeover = takeover
        return takeover.fault is None

    def handle_start(self) -> None:
        """Resume each open job. If the journal has its end, the job has ended. If the job is
        pending in the journal, the daemon runs it unasked. Any other job is sent."""
        takeover, self._takeover = self._takeover, Takeover({}, frozenset())
        self._accepted.clear()
        for record in list(self._records.values()):
            if (message := takeover.ends.get(record.job_id)) is not None:
                self._end(record, message)
            elif record.job_id in takeover.pending:
                if record.is_cancelled:
                    self._send_cancel(record.job_id)
            elif record.is_cancelled:
                self._send_cancel(record.job_id)  # a machine of the queue may have the job
                self._end(record, _cancelled())
            else:
                self._send(record)
        for job_id in takeover.pending - self._records.keys():
            self._send_cancel(job_id)  # its record was removed

    def handle_message(self, message: Message) -> None:
        """A message of the daemon."""
        job_id = message.get("job_id")
        record = self._records.get(job_id) if isinstance(job_id, str) else None
        if record is None:
            return
        record.heard_at = time.monotonic()
        kind = message.get("type")
        if kind in ("accepted", "progress"):
            if kind == "accepted":
                self._overtake(record)
                record.position = message.get("position")
            self._accept(record)
            if kind == "progress":
                if record.status == "queued":
                    self._renumber_soon()
                record.advance(message, time.time())
            self._watchers.notify(record)
        elif kind == "result" or (kind == "error" and not self._is_refused(record, message)):
            self._end(record, message)

    def handle_end(self) -> None:
        """Nothing is lost: the next daemon runs the open jobs."""

    # --- ends -------------------------------------------------------------------------------------

    def _accept(self, record: Record) -> None:
        self._accepted.add(record.job_id)
        answer = self._answers.get(record.job_id)
        if answer is not None and not answer.done():
            answer.set_result(None)

    def _is_refused(self, record: Record, message: Message) -> bool:
        """True if the error means that the job was not accepted, and the submit is answered so."""
        if record.job_id in self._accepted:
            return False
        if message.get("code") == ErrorCode.SHUTTING_DOWN:
            return True  # the next daemon gets it
        answer = self._answers.get(record.job_id)
        if answer is None or answer.done():
            return False
        self._forget(record)
        answer.set_exception(_refusal(message))
        return True

    def _forget(self, record: Record) -> None:
        """Remove a job that was not accepted."""
        self._close(record)
        with suppress(sqlite3.Error):
            self._registry.remove(record.job_id)

    def _end(self, record: Record, message: Message) -> None:
        now = time.time()
        if record.status == "queued":
            self._renumber_soon()
        if message.get("type") == "result":
            self._take_file(record, message)
            record.complete(message, now)
            if record.file_name is not None and self._settings.keep_hours:
                record.expires_at = now + self._settings.keep_hours * 3600
        else:
            record.fail(message, now)
        self._close(record)
        if record.is_deleted and record.file_name is not None:
            self._storage.remove_result(record.file_name)
        self._record(record)
        answer = self._answers.get(record.job_id)
        if answer is not None and not answer.done():
            answer.set_result(None)
        self._watchers.notify(record)
        for call in self.on_ended:
            call(record)

    def _close(self, record: Record) -> None:
        del self._records[record.job_id]
        self.last_end = time.monotonic()
        self._accepted.discard(record.job_id)
        self._storage.remove_upload(record.job_id)

    def _waiting(self) -> list[Record]:
        """The jobs that have not started, in the order in which they start."""
        waiting = [one for one in self._records.values() if one.status == "queued"]
        return sorted(waiting, key=lambda one: -one.priority)  # stable

    def _overtake(self, record: Record) -> None:
        """A job comes into the queue: those of a lower priority move down."""
        if record.job_id in self._accepted or record.priority <= self._lowest:
            return
        for other in self._records.values():
            if other.position is not None and other.priority < record.priority:
                other.position += 1
                self._watchers.notify(other)

    def _renumber_soon(self) -> None:
        """A job has left the queue: those behind it have moved up."""
        if self._renumbering is None:
            loop = asyncio.get_running_loop()
            self._renumbering = loop.call_later(_RENUMBER_S, self._renumber)

    def _renumber(self) -> None:
        self._renumbering = None
        for position, record in enumerate(self._waiting()[:_RENUMBERED]):
            if record.position is not None and _move_up(record, position):
                self._watchers.notify(record)

    def _take_file(self, record: Record, message: Message) -> None:
        path = message.get("output_path")
        if not isinstance(path, str):
            return
        name = Path(path).name
        with suppress(OSError):
            record.file_size_bytes = self._storage.note_result(self._storage.result(name))
            record.file_name = name

    def _record(self, record: Record) -> None:
        """Write the row. If the disk is full, the end of a job is written later."""
        try:
            if record.is_deleted and record.has_ended:
                self._registry.remove(record.job_id)
            elif record.has_ended and self.on_recording_end:
                with self._registry.transaction():
                    for call in self.on_recording_end:
                        call(record)
                    self._registry.update(record)
            else:
                self._registry.update(record)
        except sqlite3.Error as error:
            _LOG.warning("the registry cannot be written: %s", error)
            if record.has_ended:
                self._unrecorded[record.job_id] = record
        else:
            self._unrecorded.pop(record.job_id, None)

    def _send(self, record: Record) -> None:
        if self._daemon is not None and record.line is not None:
            self._daemon.send(record.line)

    def _send_cancel(self, job_id: str) -> None:
        if self._daemon is not None:
            self._daemon.send(orjson.dumps({"type": "cancel", "job_id": job_id}) + b"\n")


def _move_up(record: Record, position: int) -> bool:
    """Set a job's place in the queue, if that is less than the known one. The daemon has counted
    less if a worker has taken jobs that it has not begun yet."""
    if record.position is not None and record.position <= position:
        return False
    record.position = position
    return True


def _cancelled() -> Message:
    return {"type": "error", "error": "the job was cancelled", "code": "cancelled"}


def _refusal(message: Message) -> ProblemError:
    try:
        code = ErrorCode(str(message.get("code")))
    except ValueError:
        code = ErrorCode.INTERNAL
    text = f"The job was not accepted: {MEANINGS[code].raised_when}."
    return ProblemError(code, text)


def _registry_problem(error: sqlite3.Error) -> ProblemError:
    _LOG.error("the registry cannot be written: %s", error)
    return ProblemError(
        HttpCode.INSUFFICIENT_STORAGE,
        "The job was not accepted, because the server's disk is full or fails; try again later.",
    )
