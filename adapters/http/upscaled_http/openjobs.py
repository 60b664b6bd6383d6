"""The jobs that have not ended, between their clients and the daemon.

    add ── row ── line ──> daemon ── accepted, progress… ──> watchers
                              │
                              └── result or error ──> row, files, watchers, `on_ended`

The row is written first and a daemon's end of it last, so a kill at any point leaves a row that
the next start takes up: see `handle_start`.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
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

# A submit waits so long for the daemon's answer. Without one the job is accepted all the same,
# because its row is on disk and the next daemon gets it.
_ANSWER_S = 5.0

_LOG = logging.getLogger(__name__)


class OpenJobs:
    """The daemon's listener. Hold no record of it over an `await`, but to look at it."""

    def __init__(
        self, storage: Storage, settings: StorageSettings, registry: Registry, watchers: Watchers
    ) -> None:
        self._storage = storage
        self._settings = settings
        self._registry = registry
        self._watchers = watchers
        self._records: dict[str, Record] = {r.job_id: r for r in registry.open_jobs()}
        # Of jobs that were sent and are neither accepted nor refused yet.
        self._answers: dict[str, asyncio.Future[None]] = {}
        self._accepted: set[str] = set()
        # Ends that a full disk kept out of the registry.
        self._unrecorded: dict[str, Record] = {}
        self._takeover = Takeover({}, frozenset())
        self._daemon: ChildDaemon | None = None
        # When the last job ended, by the monotonic clock; before the first one: the start.
        self.last_end = time.monotonic()
        self.journal_fault: str | None = None
        # Called with each job that has ended, before its row is written, in that transaction: what
        # they record is recorded if and only if the end is. May raise `sqlite3.Error`.
        self.on_recording_end: list[Callable[[Record], None]] = []
        # Called with each job that has ended, once.
        self.on_ended: list[Callable[[Record], None]] = []

    def __len__(self) -> int:
        return len(self._records)

    def attach(self, daemon: ChildDaemon) -> None:
        """Have a daemon do the jobs."""
        self._daemon = daemon

    def find(self, job_id: str) -> Record | None:
        """The open job of this id."""
        return self._records.get(job_id)

    def records(self) -> list[Record]:
        """All, in the order of their submit."""
        return list(self._records.values())

    @property
    def running(self) -> int:
        """How many have started."""
        return sum(record.status == "processing" for record in self._records.values())

    def position(self, record: Record) -> int:
        """How many jobs that wait were submitted before this one."""
        count = 0
        for other in self._records.values():
            if other is record:
                break
            count += other.status == "queued"
        return count

    # --- what clients do ------------------------------------------------------------------------

    async def add(self, record: Record, answer: tuple[str, KeptAnswer] | None) -> None:
        """Record a job, and have the daemon do it. answer: what an `Idempotency-Key` is to stand
        for from now on.

        Raises `ProblemError` if the daemon refuses it or the disk is full; nothing is left then.
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
        self._watchers.tell(record)
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
        """Have the daemon end a job. If none runs, the next one is told."""
        if record.is_cancelled:
            return
        record.is_cancelled = True
        self._record(record)
        self._send_cancel(record.job_id)

    def remove(self, record: Record) -> None:
        """Cancel a job, and remove it as soon as it has ended."""
        record.is_deleted = True
        if record.is_cancelled:
            self._record(record)
        self.cancel(record)

    def catch_up(self) -> None:
        """Record the ends that a full disk kept out of the registry."""
        for record in list(self._unrecorded.values()):
            self._record(record)

    def ask_for_lost_ends(self, silent_s: float) -> None:
        """Have the daemon say again how jobs ended of which it has said nothing for so long. If one
        has not ended, that changes nothing."""
        now = time.monotonic()
        silent = [one for one in self._records.values() if now - one.heard_at >= silent_s]
        for record in silent:
            record.heard_at = now
        if silent and self._daemon is not None:
            ids = [record.job_id for record in silent]
            self._daemon.send(orjson.dumps({"type": "replay", "job_ids": ids}) + b"\n")

    def unrecorded(self, job_id: str) -> Record | None:
        """A job that has ended, and whose row does not say so yet."""
        return self._unrecorded.get(job_id)

    # --- the daemon's listener ------------------------------------------------------------------

    async def prepare_start(self) -> bool:
        """Read the journal while no daemon holds it."""
        takeover = await asyncio.to_thread(read_journal, self._storage.journal, list(self._records))
        if takeover is None:
            self.journal_fault = "another process holds the journal"
            return False
        self.journal_fault = takeover.fault
        self._takeover = takeover
        return takeover.fault is None

    def handle_start(self) -> None:
        """Take up each open job: by its end in the journal, as one that the daemon accepts by
        itself, or by sending it."""
        takeover, self._takeover = self._takeover, Takeover({}, frozenset())
        self._accepted.clear()
        for record in list(self._records.values()):
            if (message := takeover.ends.get(record.job_id)) is not None:
                self._end(record, message)
            elif record.job_id in takeover.pending:
                if record.is_cancelled:
                    self._send_cancel(record.job_id)
            elif record.is_cancelled:
                self._end(record, _cancelled())
            else:
                self._send(record)
        for job_id in takeover.pending - self._records.keys():
            self._send_cancel(job_id)  # a job of a record that is gone

    def handle_message(self, message: Message) -> None:
        """A message of the daemon."""
        job_id = message.get("job_id")
        record = self._records.get(job_id) if isinstance(job_id, str) else None
        if record is None:
            return
        record.heard_at = time.monotonic()
        kind = message.get("type")
        if kind in ("accepted", "progress"):
            self._accept(record)
            if kind == "accepted":
                record.position = message.get("position")
            else:
                record.advance(message, time.time())
            self._watchers.tell(record)
        elif kind == "result" or (kind == "error" and not self._is_refused(record, message)):
            self._end(record, message)

    def handle_end(self) -> None:
        """The daemon is gone. What it was doing goes on with the next one."""

    # --- ends -----------------------------------------------------------------------------------

    def _accept(self, record: Record) -> None:
        self._accepted.add(record.job_id)
        answer = self._answers.get(record.job_id)
        if answer is not None and not answer.done():
            answer.set_result(None)

    def _is_refused(self, record: Record, message: Message) -> bool:
        """Whether an error says that the job was not accepted, and its client hears of that."""
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
        """Remove a job without an end."""
        self._close(record)
        with suppress(sqlite3.Error):
            self._registry.remove(record.job_id)

    def _end(self, record: Record, message: Message) -> None:
        now = time.time()
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
        self._watchers.tell(record)
        for call in self.on_ended:
            call(record)

    def _close(self, record: Record) -> None:
        del self._records[record.job_id]
        self.last_end = time.monotonic()
        self._accepted.discard(record.job_id)
        self._storage.remove_upload(record.job_id)

    def _take_file(self, record: Record, message: Message) -> None:
        path = message.get("output_path")
        if not isinstance(path, str):
            return
        name = Path(path).name
        with suppress(OSError):
            record.file_size_bytes = self._storage.note_result(self._storage.result(name))
            record.file_name = name

    def _record(self, record: Record) -> None:
        """Write the row. What a full disk keeps out of it is written later."""
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
