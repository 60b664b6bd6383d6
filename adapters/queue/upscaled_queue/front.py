"""`upscaled queue run`: the daemon of a fleet. It speaks the protocol on stdio, as `upscaled run`
does, and its workers are the machines of the queue.

    host ── job lines ──> Front ── queue ──> machines
    host <── accepted, progress, result | error ── Front <── the record ──┘

An accepted job is in the queue, so it outlives this process. A host that sends the job again under
the same id gets the one end that the job has.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import assert_never

from upscaled_protocol import PROTOCOL_VERSION
from upscaled_protocol.admission import GOING_DOWN, Admission
from upscaled_protocol.backoff import pauses
from upscaled_protocol.codec import decode_host_message, encode
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.hostlines import HostLines
from upscaled_protocol.lines import READ_SIZE_BYTES, decode_line, encode_line
from upscaled_protocol.log import Logger
from upscaled_protocol.messages import (
    Accepted,
    BaseJob,
    Cancel,
    Health,
    HealthReport,
    Replay,
    Shutdown,
    Status,
    Trim,
)
from upscaled_protocol.version import VERSION
from upscaled_queue.depth import depth
from upscaled_queue.exits import EXIT_FAILED, EXIT_HOST_GONE, EXIT_OK
from upscaled_queue.job import Message, QueuedJob, error_event, read_job
from upscaled_queue.outages import reason_of
from upscaled_queue.producer import Producer
from upscaled_queue.record import Records
from upscaled_queue.redisserver import is_away
from upscaled_queue.settings import Settings
from upscaled_queue.webhooks import message_of

# How often the loop asks for ends: while jobs are open, and otherwise.
_TICK_MS = 50
_IDLE_MS = 1000
# How often the progress of the open jobs is read.
_PROGRESS_S = 0.5
# How often all open jobs are looked up: the ends of an outage are not in the stream, and an emptied
# Redis has lost jobs.
_SWEEP_S = 5.0
_FIRST_DELAY_S = 0.1
_LAST_DELAY_S = 2.0
# Lines that are kept while Redis is away, about ten thousand jobs. The rest waits in the pipe.
_KEPT_BYTES = 8 * 1024 * 1024

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


class _HostGoneError(Exception):
    """Raised if the host is gone. It is no `OSError`, because those are outages of Redis."""


@dataclass
class _OpenJob:
    """line: the job as it was given, which takes less memory than its fields. progress: the newest
    progress that the host has got, as text."""

    line: bytes
    progress: str | None = None

    @property
    def job(self) -> QueuedJob:
        return read_job(decode_line(self.line))


class Front:
    """Serves one host on two pipes."""

    def __init__(
        self, settings: Settings, records: Records, producer: Producer, read_fd: int, write_fd: int
    ) -> None:
        self._settings = settings
        self._records = records
        self._producer = producer
        self._read_fd, self._write_fd = read_fd, write_fd
        self._lines = HostLines()
        self._log = Logger(component="queue")
        self._open: dict[str, _OpenJob] = {}
        # The host's lines that were read and not handled yet, and their bytes.
        self._kept: deque[bytes | JobError] = deque()
        self._kept_bytes = 0
        # The jobs of the lines of one read, which are submitted together.
        self._new: list[QueuedJob] = []
        self._admission = Admission[QueuedJob](
            self._open, has_room=lambda: True, accept=self._accept, send=self._write
        )
        self._follower = records.follower()
        self._has_failed = False
        self._input_ended = False
        self._signal: int | None = None
        self._began = time.monotonic()
        self._next_progress = self._next_sweep = 0.0
        # Why Redis cannot be used now.
        self._outage: str | None = None

    def serve(self) -> int:
        """Serve until the host has ended its input and every job has ended; the exit status.

        SIGTERM ends this at once, and so does the host's exit. The open jobs stay in the queue.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle_signal)
        try:
            self._send(Status(message="loading_models", protocol=PROTOCOL_VERSION))
            self._send(
                Status(
                    message="ready",
                    protocol=PROTOCOL_VERSION,
                    version=VERSION,
                    methods=list(self._settings.methods),
                    device="queue",
                    pid=os.getpid(),
                )
            )
            self._loop()
            self._send(Status(message="stopped"))
        except _HostGoneError:
            return EXIT_HOST_GONE
        return EXIT_FAILED if self._has_failed or self._admission.refused else EXIT_OK

    def _loop(self) -> None:
        while self._signal is None and not (
            self._input_ended and not self._open and not self._kept
        ):
            self._wait_host(_TICK_MS if self._open else _IDLE_MS)
            self._handle_lines()
            self._patiently(self._watch)
        self._handle_lines()  # a signal came during an outage: its jobs are refused

    def _handle_signal(self, number: int, _frame: object) -> None:
        self._signal = number

    # --- the host's lines -----------------------------------------------------------------------

    def _wait_host(self, timeout_ms: int) -> None:
        """Wait until the host has written something, and read it."""
        poll = select.poll()
        poll.register(self._write_fd, 0)
        if not self._input_ended and self._kept_bytes < _KEPT_BYTES:
            poll.register(self._read_fd, select.POLLIN)
        events = dict(poll.poll(timeout_ms))
        if events.get(self._write_fd, 0) & _GONE:
            raise _HostGoneError
        if self._read_fd in events:
            self._read()

    def _read(self) -> None:
        chunk = os.read(self._read_fd, READ_SIZE_BYTES)
        if not chunk:
            self._input_ended = True
        for line in self._lines.feed(chunk) if chunk else self._lines.end():
            if self._outage is None or not self._answer_health(line):
                self._kept.append(line)
                self._kept_bytes += len(line) if isinstance(line, bytes) else 0

    def _handle_lines(self) -> None:
        # More lines may arrive while this waits for Redis.
        while self._kept:
            while self._kept:
                line = self._kept.popleft()
                try:
                    self._take(line)
                except JobError as error:
                    self._admission.refuse(error)
            self._kept_bytes = 0
            if self._new:
                jobs, self._new = self._new, []
                self._submit(jobs)

    def _answer_health(self, line: bytes | JobError) -> bool:
        """Answer a question for health before the lines that wait for Redis. False if the line is
        another one."""
        if isinstance(line, JobError):
            return False
        try:
            message = decode_host_message(line)
        except JobError:
            return False  # it is refused in its turn
        if not isinstance(message, Health | Trim):
            return False
        self._send(self._outage_report(message.request_id, self._outage))
        return True

    def _take(self, line: bytes | JobError) -> None:
        """Handle a line. Raises `JobError` if it is refused."""
        if isinstance(line, JobError):
            raise line
        message = decode_host_message(line)
        match message:
            case BaseJob():
                self._check_served(message.method, message.job_id)
                self._admission.offer(read_job(decode_line(line)), len(line))
            case Cancel():
                self._patiently(lambda: self._cancel(message.job_id))
            case Health() | Trim():
                self._send(self._report(message.request_id))
            case Replay():
                self._patiently(lambda: self._replay(message.job_ids or []))
            case Shutdown():
                self._input_ended = True
            case _:
                assert_never(message)

    def _check_served(self, method: str, job_id: str) -> None:
        if method not in self._settings.methods:
            served = ", ".join(self._settings.methods)
            raise JobError(
                ErrorCode.UNKNOWN_METHOD,
                f"method {method!r} is not served here; served: {served}. "
                "`upscaled queue run --methods` names what the machines serve",
                job_id=job_id,
            )

    def _accept(self, job: QueuedJob) -> None:
        self._open[job.job_id] = _OpenJob(encode_line(job.fields))
        self._new.append(job)
        # A cancel that came before its job is in the record, so the machine finds it.
        self._admission.note_accepted(job.job_id)

    def _submit(self, jobs: list[QueuedJob]) -> None:
        self._patiently(lambda: self._producer.submit(jobs))
        if self._signal is not None:
            for job in jobs:  # they may be queued or not, so the host must send them again
                del self._open[job.job_id]
                error = JobError(ErrorCode.SHUTTING_DOWN, GOING_DOWN, job_id=job.job_id)
                self._admission.refuse(error)
            return
        position = len(self._open) - len(jobs)
        for number, job in enumerate(jobs):
            self._send(Accepted(job_id=job.job_id, position=position + number))
        # A job of the same id may have ended before.
        self._patiently(lambda: self._send_ends([job.job_id for job in jobs]))

    def _cancel(self, job_id: str) -> None:
        open_job = self._open.get(job_id)
        if not self._records.cancel(job_id) or open_job is None:
            return
        status = self._records.status_of(job_id, self._settings.lease_s)
        if status["state"] != "running":
            # There may be no machine that would see the cancel.
            error = JobError(ErrorCode.CANCELLED, "the job was cancelled", job_id=job_id)
            job, event = open_job.job, error_event(error, job_id)
            url = job.webhook_url
            webhook = None if url is None else message_of(url, job.method, event)
            self._records.settle(job_id, job.method, event, None, webhook)

    def _replay(self, job_ids: Iterable[str]) -> None:
        """Send the ends of these jobs again."""
        for event in self._records.ends_of(list(job_ids)):
            self._end(event)

    def _report(self, request_id: str | None) -> HealthReport:
        try:
            counts = depth(self._settings, self._records).values()
        except Exception as error:
            if not is_away(error):
                raise
            return self._outage_report(request_id, reason_of(error))
        machines = sum(one["machines"] for one in counts)
        return HealthReport(
            request_id=request_id,
            status="ok" if machines else "degraded",
            detail=None if machines else "no machine takes jobs from the queue: jobs wait",
            queue_size=sum(one["waiting"] for one in counts),
            in_flight=len(self._open),
            uptime_s=self._uptime_s,
        )

    def _outage_report(self, request_id: str | None, reason: str | None) -> HealthReport:
        return HealthReport(
            request_id=request_id,
            status="degraded",
            detail=f"the queue cannot be used now: {reason}",
            queue_size=len(self._open),
            in_flight=len(self._open),
            uptime_s=self._uptime_s,
        )

    @property
    def _uptime_s(self) -> float:
        return round(time.monotonic() - self._began, 3)

    # --- the record -----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Send the ends of open jobs, and their progress if it is new; give again what was lost."""
        for job_id in self._follower.ended():
            if job_id in self._open:
                self._send_ends([job_id])
        now = time.monotonic()
        if self._open and now >= self._next_sweep:
            self._next_sweep = now + _SWEEP_S
            self._send_ends(list(self._open))
            self._submit_lost()
        if self._open and now >= self._next_progress:
            self._next_progress = now + _PROGRESS_S
            self._send_progress()

    def _send_ends(self, job_ids: list[str]) -> None:
        for event in self._records.ends_of(job_ids):
            if event["job_id"] in self._open:
                self._end(event)

    def _submit_lost(self) -> None:
        """Submit again the open jobs that Redis has lost."""
        lost = self._records.not_given(list(self._open))
        if lost:
            self._log.log("warning", "jobs_given_again", jobs=len(lost))
            self._producer.submit([self._open[job_id].job for job_id in lost])

    def _send_progress(self) -> None:
        for job_id, text in self._records.progress_of(list(self._open)):
            job = self._open[job_id]
            if text != job.progress:
                job.progress = text
                fields = decode_line(text.encode())
                self._write({"type": "progress", "job_id": job_id, **fields})

    def _end(self, event: Message) -> None:
        self._open.pop(event["job_id"], None)
        self._has_failed = self._has_failed or event["type"] == "error"
        self._write(event)

    def _patiently(self, call: Callable[[], None]) -> None:
        """Repeat a call until Redis answers, or a signal arrives. Health is answered meanwhile."""
        pauses_s = pauses(_FIRST_DELAY_S, _LAST_DELAY_S)
        while self._signal is None:
            try:
                call()
                self._outage = None
                return
            except Exception as error:
                if not is_away(error):
                    raise
                if self._outage is None:
                    self._log.log("warning", "queue_away", detail=reason_of(error))
                self._outage = reason_of(error)
            until = time.monotonic() + next(pauses_s)
            while self._signal is None and (left_s := until - time.monotonic()) > 0:
                self._wait_host(round(left_s * 1000) + 1)

    def _send(self, message: Status | Accepted | HealthReport) -> None:
        self._write_line(encode(message))

    def _write(self, fields: Message) -> None:
        self._write_line(encode_line(fields))

    def _write_line(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            try:
                view = view[os.write(self._write_fd, view) :]
            except OSError as error:
                raise _HostGoneError from error
