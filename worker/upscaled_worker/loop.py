"""The worker: reads the host's lines, hands jobs to lanes, answers exactly once each.

                    main thread                     lane threads
    host ── stdin ─> Worker.serve ── submit ──────> Lane ── Engine.run
    host <─ stdout ─ Stdout (one writer) <───────── accepted, progress, result | error

The main thread never computes, so cancel, health and the end of the host are noticed while a job
runs. Engines start in a thread of their own: jobs are taken meanwhile, and wait.
"""

from __future__ import annotations

import gc
import math
import os
import select
import signal
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NoReturn, assert_never

from upscaled_models.engine import Engine
from upscaled_protocol import PROTOCOL_VERSION
from upscaled_protocol.codec import decode_host_message
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.heldjobs import HeldJobs
from upscaled_protocol.hostlines import HostLines
from upscaled_protocol.lines import READ_SIZE_BYTES
from upscaled_protocol.log import Logger
from upscaled_protocol.messages import (
    Accepted,
    BaseJob,
    Cancel,
    Error,
    Health,
    HealthReport,
    Job,
    LaneInfo,
    Replay,
    Shutdown,
    Status,
    Trim,
)
from upscaled_protocol.stdio import Wire
from upscaled_protocol.version import VERSION
from upscaled_worker.deadlines import Deadlines
from upscaled_worker.engines import Engines
from upscaled_worker.job import RunningJob, traceback_of
from upscaled_worker.lanes import Lane
from upscaled_worker.starvation import lack
from upscaled_worker.stdio import EXIT_HOST_GONE, Stdout
from upscaled_worker.threads import EXIT_FAILED, guarded, start

# Ids remembered for cancels that come before or after their job.
_REMEMBERED_IDS = 1024
# A host that does not read its results gets no more of its lines read, and no more of its jobs
# start: memory stays bounded.
_UNREAD_LIMIT_BYTES = 16 * 1024 * 1024
# How often models past their idle time are looked for.
_IDLE_CHECK_S = 5.0
# How soon a host that had stopped reading is read again, once it goes on.
_UNREAD_CHECK_S = 0.05
# A job as its model holds it, with its config.
_JOB_BYTES = 8 * 1024
_GOING_DOWN = "no more jobs are taken; the worker is going down"

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Worker:
    """One process's worth of engines behind one wire."""

    def __init__(
        self,
        wire: Wire,
        engines: dict[str, Engine[Any]],
        *,
        max_queue: int,
        line_limit_bytes: int,
        supervised: bool = False,
    ) -> None:
        self._wire = wire
        self._log = Logger(component="worker")
        self._engines = Engines(engines, self._log)
        self._max_queue = max_queue
        self._supervised = supervised
        self._lines = HostLines(line_limit_bytes)
        self._failure: BaseException | None = None
        # Ends the wait of the loop: everything is done, a thread failed, or a signal came.
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._stdout = Stdout(wire.write_fd, self._note_failure)
        self._started_at = time.monotonic()
        self._lock = threading.Lock()
        self._jobs: dict[str, RunningJob] = {}
        self._held = HeldJobs[Job](_JOB_BYTES)  # changed by the main thread alone
        self._unavailable: dict[str, str] = {}  # as the host was told with `ready`
        self._early_cancels: OrderedDict[str, None] = OrderedDict()
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._state = "loading"
        self._reading = False
        self._input_ended = False
        self._starter = guarded("starter", self._start_engines, self._note_failure)
        self._trimmer = guarded("trim", self._trim_on_request, self._note_failure)
        self._trims: SimpleQueue[Trim | None] = SimpleQueue()
        self._is_ending = self._is_done = False
        self._signal: signal.Signals | None = None
        self._deadlines = Deadlines()
        self._next_idle_check = self._started_at + _IDLE_CHECK_S
        self._lanes: dict[str, Lane] = {}
        for engine in engines.values():
            if engine.lane not in self._lanes:
                self._lanes[engine.lane] = Lane(
                    engine.lane, engine.slots, self._execute, self._is_unread, self._note_failure
                )

    def serve(self) -> None:
        """Take lines until the host ends its input or says shutdown, and every job is done; ends
        the process (`EXIT_FAILED`) if one of its threads fails."""
        self._stdout.send(Status(message="loading_models", protocol=PROTOCOL_VERSION))
        start([self._starter, self._trimmer])
        signal.signal(signal.SIGTERM, self._handle_signal)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # else a shell's `&` has set that
            signal.signal(signal.SIGINT, self._handle_signal)
        # A host may have blocked them for itself, and what it starts has inherited that.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        poll = select.poll()
        poll.register(self._wire.write_fd, 0)
        poll.register(self._wake_read, select.POLLIN)
        try:
            while not self._turn(poll):
                pass
        except BaseException as error:  # noqa: BLE001 - whatever it is, jobs are answered first
            self._fail(error)
        self._engines.close()
        self._stdout.send(Status(message="stopped"))
        self._stdout.drain()

    @property
    def has_unread_text(self) -> bool:
        """True if the input held UTF-16, whose jobs were not even seen."""
        return self._lines.has_wide_text

    # --- reading ----------------------------------------------------------------------------

    def _turn(self, poll: select.poll) -> bool:
        """Wait for something and deal with it; True once all is done.

        Ends the process where the host dies.
        """
        unread = self._stdout.waiting_bytes > _UNREAD_LIMIT_BYTES
        paused = unread or self._held.is_full
        if self._reading == paused and not self._input_ended:
            self._reading = not paused
            if self._reading:
                poll.register(self._wire.read_fd, select.POLLIN)
            else:
                poll.unregister(self._wire.read_fd)  # its end would be told again and again
        wait_s = min(_UNREAD_CHECK_S if unread else _IDLE_CHECK_S, self._deadlines.wait_s())
        events = dict(poll.poll(math.ceil(wait_s * 1000)))
        if events.get(self._wire.write_fd, 0) & _GONE:
            self._leave_dead_host()
        if self._wake_read in events:
            os.read(self._wake_read, READ_SIZE_BYTES)
            if self._failure is not None:
                raise self._failure
            if self._signal is not None:
                while self._held:
                    job_id = self._held.take_first().job_id
                    self._refuse(JobError(ErrorCode.SHUTTING_DOWN, _GOING_DOWN, job_id=job_id))
                self._drain(self._signal.name)
            self._admit()
        self._trim_idle()
        self._end_overdue()
        if self._wire.read_fd in events and not paused:
            chunk = self._read()
            for line in self._lines.feed(chunk) if chunk else self._lines.end():
                self._take(line)
            if not chunk:
                self._input_ended = True
                poll.unregister(self._wire.read_fd)
                self._drain()
        return self._is_done

    def _is_unread(self) -> bool:
        return self._stdout.waiting_bytes > _UNREAD_LIMIT_BYTES

    def _read(self) -> bytes:
        """What has come in; empty at the end. Ends the process where the input is broken."""
        try:
            return os.read(self._wire.read_fd, READ_SIZE_BYTES)
        except OSError:
            self._leave_dead_host()

    def _drain(self, detail: str | None = None) -> None:
        """Take no more lines; the loop ends when the jobs of those before have ended."""
        if self._state != "draining":
            self._state = "draining"
            self._stdout.send(Status(message="draining", detail=detail))
            self._admit()

    def _handle_signal(self, signum: int, _frame: object) -> None:
        """Told to go: drain. Told twice: go now."""
        if self._state == "draining" or self._signal is not None:
            os._exit(128 + signum)
        # The loop drains, for here it may be in the middle of writing a line.
        self._signal = signal.Signals(signum)
        self._wake()

    def _wait_for_the_rest(self) -> None:
        self._starter.join()
        for lane in self._lanes.values():
            lane.close()
        for lane in self._lanes.values():
            lane.join()
        self._trims.put(None)
        self._trimmer.join()
        self._is_done = True
        self._wake()

    def _wake(self) -> None:
        """Have the loop look at what has changed. Never waits: a full pipe wakes it anyhow."""
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"\n")

    def _note_failure(self, error: BaseException) -> None:
        """A thread has ended by an exception: the loop ends the worker."""
        self._failure = error
        self._wake()

    def _fail(self, error: BaseException) -> NoReturn:
        """Tell why, answer every job, and end the process: a worker that lacks a thread of its
        own would accept jobs and never end them. A supervisor runs its jobs again elsewhere."""
        reason = f"the worker failed: {type(error).__name__}: {error}"
        self._log.log("error", "worker_failed", detail=reason, traceback=traceback_of(error))
        sys.stderr.write(f"{reason}\n")  # the last line is what a supervisor tells as the cause
        sys.stderr.flush()
        self._stdout.send(Status(message="degraded", detail=reason))
        if not self._supervised:
            while self._held:
                job_id = self._held.take_first().job_id
                self._refuse(JobError(ErrorCode.WORKER_CRASHED, reason, job_id=job_id))
            with self._lock:
                for job in self._jobs.values():
                    self._stdout.send(job.failure(ErrorCode.WORKER_CRASHED, reason))
                self._jobs.clear()
            self._stdout.send(Status(message="stopped", detail=reason))
        self._stdout.drain()
        os._exit(EXIT_FAILED)

    def _leave_dead_host(self) -> NoReturn:
        self._log.log("warning", "host_gone")
        os._exit(EXIT_HOST_GONE)

    def _take(self, line: bytes | JobError) -> None:
        try:
            if isinstance(line, JobError):
                raise line
            message = decode_host_message(line)
            if isinstance(message, BaseJob):
                self._handle_job(message, len(line))
                return
        except JobError as error:
            self._refuse(error)
            return
        match message:
            case Cancel():
                self._handle_cancel(message.job_id)
            case Health():
                self._stdout.send(self._health(message.request_id))
            case Trim():
                self._trims.put(message)
            case Shutdown():
                self._drain()
            case Replay():
                pass  # a bare worker keeps no journal, so it has nothing to send again
            case _:
                assert_never(message)

    # --- jobs -------------------------------------------------------------------------------

    def _handle_job(self, job: Job, line_bytes: int) -> None:
        """Accept a job, or hold it until there is room."""
        if job.method not in self._engines:
            served = ", ".join(self._engines.methods)
            raise JobError(
                ErrorCode.UNKNOWN_METHOD,
                f"method {job.method!r} is not served here; served: {served}. "
                "`upscaled doctor` says what is missing",
                job_id=job.job_id,
            )
        if self._state == "draining":
            raise JobError(ErrorCode.SHUTTING_DOWN, _GOING_DOWN, job_id=job.job_id)
        with self._lock:
            if job.job_id in self._jobs or job.job_id in self._held:
                raise JobError(
                    ErrorCode.DUPLICATE_JOB,
                    f"job {job.job_id!r} is still in flight; this line was refused",
                    job_id=job.job_id,
                )
            # A job that is cancelled already takes no room.
            if (self._held or not self._has_room) and job.job_id not in self._early_cancels:
                self._held.hold(job.job_id, job, line_bytes)
                return
        self._accept(job)

    @property
    def _has_room(self) -> bool:
        return len(self._jobs) < self._max_queue

    def _admit(self) -> None:
        """Accept the held jobs that there is room for; once none is left, a drain goes on."""
        while self._held and self._has_room:
            self._accept(self._held.take_first())
        if self._state == "draining" and not self._held and not self._is_ending:
            self._is_ending = True
            start([guarded("drain", self._wait_for_the_rest, self._note_failure)])

    def _accept(self, job: Job) -> None:
        lane = self._lanes[self._engines[job.method].lane]
        with self._lock:
            running = RunningJob(job, lane.turns, self._stdout.send)
            self._jobs[job.job_id] = running
            self._finished.pop(job.job_id, None)
            cancelled = self._early_cancels.pop(job.job_id, "no") is None
            if cancelled:
                running.cancel()  # before its lane can start it, let alone finish it
            # Under the lock, so that nothing of the job can overtake its acceptance.
            position = lane.submit(running)
            self._deadlines.note(running)
            # A supervisor accepted the job long ago, and told the host.
            if not self._supervised:
                self._stdout.send(Accepted(job_id=job.job_id, position=position))
        if cancelled:
            self._handle_cancel(job.job_id)

    def _handle_cancel(self, job_id: str) -> None:
        if self._held.take(job_id) is not None:
            with self._lock:
                _remember(self._finished, job_id)
            self._refuse(JobError(ErrorCode.CANCELLED, "the job was cancelled", job_id=job_id))
            return
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                # A supervisor cancels nothing before its job: what is not here was refused.
                if job_id not in self._finished and not self._supervised:
                    _remember(self._early_cancels, job_id)
                return
        job.cancel()
        if self._lanes[self._engines[job.job.method].lane].withdraw(job):
            self._execute(job)  # which ends it: it does not start when cancelled

    def _end_overdue(self) -> None:
        """End the jobs that have waited too long, for their lane or for the device."""
        with self._lock:
            overdue = self._deadlines.overdue(self._jobs.values())
        for job in overdue:
            if self._lanes[self._engines[job.job.method].lane].withdraw(job):
                self._execute(job)  # which ends it: it does not start
            else:
                job.wake()

    def _execute(self, job: RunningJob) -> None:
        """Run one job to its terminal message, in a thread of its lane."""
        message: Any
        try:
            job.start()
            if self._engines.require(job):
                self._report_mended()
            message = job.result(self._engines[job.job.method].run(job.job.config, job))
            if job.job.method in self._unavailable:
                self._engines.note_success(job.job.method)
                self._report_mended()
        except JobError as error:
            message = job.failure(error.code, error.message)
        except MemoryError:
            message = job.failure(ErrorCode.OUT_OF_MEMORY, "memory ran out")
        except BaseException as error:  # noqa: BLE001 - also SystemExit: a job ends no worker
            text = f"unexpected {type(error).__name__}: {error}"
            known = lack(text, error) or JobError(ErrorCode.INTERNAL, text)
            message = job.failure(known.code, known.message, error)
        with self._lock:
            if job.job_id not in self._jobs:  # answered already, because the worker fails
                return
            self._stdout.send(message)
            del self._jobs[job.job_id]
            _remember(self._finished, job.job_id)
            if self._held:
                self._wake()  # there is room now

    def _refuse(self, error: JobError) -> None:
        """Answer a bad line. An id in flight is another job's: the error must not end that."""
        with self._lock:
            taken = error.job_id in self._jobs or error.job_id in self._held
            self._stdout.send(
                Error(
                    job_id=None if taken else error.job_id,
                    refused_job_id=error.job_id if taken else error.refused_job_id,
                    error=error.message,
                    code=error.code,
                    retryable=error.retryable,
                )
            )

    # --- engines ----------------------------------------------------------------------------

    def _start_engines(self) -> None:
        self._engines.start()
        for lane in self._lanes.values():
            lane.start()
        if self._state == "loading":
            self._state = "degraded" if self._engines.faults else "ok"
        self._report_ready()
        # What the imports left lives for good; no collection need walk through it again.
        gc.freeze()
        for lane in self._lanes.values():
            lane.open()

    def _report_mended(self) -> None:
        """A method that could not be used works now."""
        if self._state == "degraded" and not self._engines.faults:
            self._state = "ok"
        if self._state != "draining":
            self._report_ready()

    def _report_ready(self) -> None:
        device = self._engines.device()
        faults = self._engines.faults
        if faults:
            self._stdout.send(Status(message="degraded", detail=faults))
        self._unavailable = unavailable = self._engines.unavailable()
        # Also if no engine works: a host that waits for this word must get its answers.
        self._stdout.send(
            Status(
                message="ready",
                detail=faults,
                protocol=PROTOCOL_VERSION,
                version=VERSION,
                methods=[one for one in self._engines.working if one not in unavailable],
                unavailable=unavailable or None,
                models=self._engines.models(),
                device=device.name if device else None,
                lanes=self._lane_info(),
                pid=os.getpid(),
            )
        )

    def _lane_info(self) -> dict[str, LaneInfo]:
        """Broken engines' methods too: their jobs are answered with what is wrong."""
        engines = self._engines
        return {
            name: LaneInfo(
                methods=[one for one in engines.methods if engines[one].lane == name],
                slots=lane.slots,
            )
            for name, lane in self._lanes.items()
        }

    def _trim_on_request(self) -> None:
        """A thread of its own: an engine may take its time for it."""
        while (trim := self._trims.get()) is not None:
            self._engines.trim()
            self._stdout.send(self._health(trim.request_id))

    def _trim_idle(self) -> None:
        """By the clock: a host that asks for health all the time keeps no model in memory."""
        now = time.monotonic()
        if now >= self._next_idle_check:
            self._next_idle_check = now + _IDLE_CHECK_S
            self._engines.trim(idle_only=True)

    def _health(self, request_id: str | None) -> HealthReport:
        loading = self._state == "loading"
        device = None if loading else self._engines.device()
        waiting = sum(lane.waiting for lane in self._lanes.values())
        return HealthReport(
            request_id=request_id,
            status=self._state,
            detail=self._engines.faults,
            gpu_available=None if loading else bool(device and device.gpu_name),
            gpu_name=device.gpu_name if device else None,
            gpu_memory_free=device.gpu_memory_free_gb if device else None,
            models_loaded=self._engines.models_loaded(),
            queue_size=waiting,
            in_flight=len(self._jobs),
            uptime_s=round(time.monotonic() - self._started_at, 3),
            dropped_progress=self._stdout.dropped_progress,
        )


def _remember(ids: OrderedDict[str, None], job_id: str) -> None:
    ids[job_id] = None
    ids.move_to_end(job_id)
    if len(ids) > _REMEMBERED_IDS:
        ids.popitem(last=False)
