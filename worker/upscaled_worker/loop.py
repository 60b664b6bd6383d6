"""The worker's main loop: reads the host's lines and handles each message.

                    main thread                            lane threads
    host ── stdin ─> Worker ── Jobs.offer ── submit ─────> Lane ── Engine.run
    host <─ stdout ─ Stdout (one writer) <──────────────── accepted, progress, result | error

The main thread never computes, so that it notices a cancel, a health request and the end of the
host while a job runs. The engines start in a thread of their own; jobs are accepted meanwhile.
"""

from __future__ import annotations

import gc
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, assert_never

from upscaled_models.engine import Engine
from upscaled_protocol import PROTOCOL_VERSION
from upscaled_protocol.admission import GOING_DOWN
from upscaled_protocol.codec import decode_host_message
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.hostlines import HostLines
from upscaled_protocol.lines import READ_SIZE_BYTES
from upscaled_protocol.log import Logger
from upscaled_protocol.messages import (
    BaseJob,
    Cancel,
    Health,
    HostMessages,
    Replay,
    Shutdown,
    Status,
    Trim,
)
from upscaled_protocol.stdio import Wire
from upscaled_worker.engines import Engines
from upscaled_worker.job import traceback_of
from upscaled_worker.jobs import Jobs
from upscaled_worker.reports import Reports
from upscaled_worker.stdio import EXIT_HOST_GONE, Stdout
from upscaled_worker.threads import EXIT_FAILED, guarded, start
from upscaled_worker.trimming import IDLE_CHECK_S, Trimmer
from upscaled_worker.wakeup import Wakeup

# How often an unread host is checked: its lines are read again once it reads.
_UNREAD_CHECK_S = 0.05

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


class HostGoneError(Exception):
    """The host has closed its end of stdout, or stdin cannot be read."""


class Worker:
    """One process's engines behind one wire."""

    def __init__(
        self,
        wire: Wire,
        engines: dict[str, Engine[Any]],
        *,
        max_queue: int,
        line_limit_bytes: int,
        supervised: bool = False,
        clock: Callable[[], float] = time.monotonic,
        exit_process: Callable[[int], NoReturn] = os._exit,
    ) -> None:
        """exit_process: ends the process at once, from any thread."""
        self._wire = wire
        self._supervised = supervised
        self._exit_process = exit_process
        self._log = Logger(component="worker")
        self._wakeup = Wakeup()
        # Set by other threads and by the signal handler, before they wake the loop.
        self._failure: BaseException | None = None
        self._signal: signal.Signals | None = None
        self._lines = HostLines(line_limit_bytes)
        self._stdout = Stdout(wire.write_fd, self._note_failure, exit_process)
        self._engines = Engines(engines, self._log, on_usable=self._note_usable, clock=clock)
        self._jobs = Jobs(
            self._engines,
            self._stdout.send,
            max_jobs=max_queue,
            supervised=supervised,
            is_paused=lambda: self._stdout.is_unread,
            on_room=self._wakeup.wake,
            on_failure=self._note_failure,
            clock=clock,
        )
        self._reports = Reports(self._engines, self._jobs, self._stdout, clock)
        self._trimmer = Trimmer(
            self._engines,
            answer=lambda trim: self._reports.send_health(trim.request_id),
            on_failure=self._note_failure,
            clock=clock,
        )
        self._starter = guarded("starter", self._start_engines, self._note_failure)
        self._poll = select.poll()
        self._poll.register(wire.write_fd, 0)
        self._poll.register(self._wakeup.fd, select.POLLIN)
        self._is_reading = False
        self._input_ended = False
        self._is_finishing = self._is_done = False

    def run(self) -> int:
        """Serve until the host ends its input or sends `shutdown`, and every job has ended.

        Returns the exit status: 0, `EXIT_HOST_GONE`, or `EXIT_FAILED` if one of the worker's own
        threads failed. Other threads may still run then, so the process must end at once.
        """
        self._stdout.send(Status(message="loading_models", protocol=PROTOCOL_VERSION))
        start([self._starter])
        self._trimmer.start()
        try:
            while not self._is_done:
                self._turn()
        except HostGoneError:
            self._log.log("warning", "host_gone")
            return EXIT_HOST_GONE
        except BaseException as error:  # noqa: BLE001 - whatever it is, jobs are answered first
            self._fail(error)
            return EXIT_FAILED
        self._engines.close()
        self._stdout.send_last(Status(message="stopped"))
        self._stdout.drain()
        return 0

    @property
    def has_unread_text(self) -> bool:
        """True if the input held UTF-16, so that jobs in it were not read."""
        return self._lines.has_wide_text

    def handle_signal(self, signum: int, _frame: object = None) -> None:
        """Drain; at the second signal, or while draining, end the process at once."""
        if self._reports.is_draining or self._signal is not None:
            self._exit_process(128 + signum)
        # The loop drains: a signal may come while a line is being written.
        self._signal = signal.Signals(signum)
        self._wakeup.wake()

    def wake(self) -> None:
        """Have the loop look at the clock. Safe to call from any thread."""
        self._wakeup.wake()

    # --- one turn of the loop ---------------------------------------------------------------

    def _turn(self) -> None:
        """Wait for an event and handle it. Raises `HostGoneError`."""
        self._choose_reading()
        events = dict(self._poll.poll(math.ceil(self._wait_s() * 1000)))
        if events.get(self._wire.write_fd, 0) & _GONE:
            raise HostGoneError
        if self._wakeup.fd in events:
            self._handle_wakeup()
        self._trimmer.trim_idle()
        self._jobs.end_overdue()
        if self._wire.read_fd in events:
            self._read_lines()

    def _choose_reading(self) -> None:
        """Read on, unless the host must first read its results or too many jobs are held."""
        wanted = not (self._input_ended or self._stdout.is_unread or self._jobs.is_full)
        if wanted and not self._is_reading:
            self._poll.register(self._wire.read_fd, select.POLLIN)
        elif self._is_reading and not wanted:
            self._poll.unregister(self._wire.read_fd)  # else its end would be reported every turn
        self._is_reading = wanted

    def _wait_s(self) -> float:
        longest_s = _UNREAD_CHECK_S if self._stdout.is_unread else IDLE_CHECK_S
        return min(longest_s, self._jobs.wait_s())

    def _handle_wakeup(self) -> None:
        self._wakeup.clear()
        if self._failure is not None:
            raise self._failure
        if self._signal is not None:
            self._jobs.refuse_held(ErrorCode.SHUTTING_DOWN, GOING_DOWN)
            self._drain(self._signal.name)
        self._admit()

    def _read_lines(self) -> None:
        try:
            chunk = os.read(self._wire.read_fd, READ_SIZE_BYTES)
        except OSError:
            raise HostGoneError from None
        for line in self._lines.feed(chunk) if chunk else self._lines.end():
            self._handle_line(line)
        if not chunk:
            self._input_ended = True
            self._drain()

    def _handle_line(self, line: bytes | JobError) -> None:
        try:
            if isinstance(line, JobError):
                raise line
            self._handle(decode_host_message(line), len(line))
        except JobError as error:
            self._jobs.refuse(error)

    def _handle(self, message: HostMessages, line_bytes: int) -> None:
        """Raises `JobError` to refuse the line."""
        match message:
            case BaseJob():
                self._jobs.offer(message, line_bytes)
            case Cancel():
                self._jobs.cancel(message.job_id)
            case Health():
                self._reports.send_health(message.request_id)
            case Trim():
                self._trimmer.request(message)
            case Shutdown():
                self._drain()
            case Replay():
                pass  # a bare worker keeps no journal, so it has nothing to send again
            case _:
                assert_never(message)

    # --- starting and ending ----------------------------------------------------------------

    def _start_engines(self) -> None:
        self._engines.start()
        self._jobs.lanes.start()
        self._reports.has_started = True
        self._reports.send_ready()
        # The objects of the imports are never freed, so collections need not look at them.
        gc.freeze()
        self._jobs.lanes.open()

    def _note_usable(self) -> None:
        self._reports.send_ready_again()

    def _drain(self, detail: str | None = None) -> None:
        """Accept no more jobs. The loop ends when all jobs have ended."""
        if not self._reports.is_draining:
            self._reports.is_draining = True
            self._jobs.close()
            self._stdout.send(Status(message="draining", detail=detail))
            self._admit()

    def _admit(self) -> None:
        """Accept held jobs. Once a draining worker holds none, wait for the accepted ones."""
        self._jobs.admit()
        if self._reports.is_draining and not self._jobs.is_holding and not self._is_finishing:
            self._is_finishing = True
            start([guarded("drain", self._finish, self._note_failure)])

    def _finish(self) -> None:
        """Wait for all jobs and trims, and end the loop."""
        self._starter.join()
        self._jobs.lanes.finish()
        self._trimmer.finish()
        self._is_done = True
        self._wakeup.wake()

    def _note_failure(self, error: BaseException) -> None:
        """End the loop, because one of the worker's threads was ended by an exception."""
        self._failure = error
        self._wakeup.wake()

    def _fail(self, error: BaseException) -> None:
        """Report the reason and answer every job: a worker that lacks one of its threads would
        accept jobs and never end them. A supervisor answers the jobs itself, or runs them again."""
        reason = f"the worker failed: {type(error).__name__}: {error}"
        self._log.log("error", "worker_failed", detail=reason, traceback=traceback_of(error))
        sys.stderr.write(f"{reason}\n")  # a supervisor takes the last line as the cause
        sys.stderr.flush()
        self._stdout.send(Status(message="degraded", detail=reason))
        if not self._supervised:
            self._jobs.fail_all(reason)
            self._stdout.send_last(Status(message="stopped", detail=reason))
        self._stdout.drain()


def catch_signals(worker: Worker) -> None:
    """Have SIGTERM and SIGINT drain the worker. Call in the main thread."""
    signal.signal(signal.SIGTERM, worker.handle_signal)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a shell's `&` has it ignored
        signal.signal(signal.SIGINT, worker.handle_signal)
    # A host may have blocked them for itself, and what it starts has inherited that.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
