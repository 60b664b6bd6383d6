"""The supervisor's main loop: one thread and one poll between the host and the workers.

    host ── HostWire ──> Admission (accepts jobs, holds those that there is no room for)
                            │
                         Ledger (every accepted job, its one terminal event)
                            │ queue
                         Fleet ── Child, Child, … ── pipes ── workers
                            └──── ForkServer (their parent process)

A host's line is parsed once, for its envelope, and forwarded as it came; so is a worker's result.
"""

from __future__ import annotations

import os
import signal
from typing import Any, assert_never

from upscaled_protocol import PROTOCOL_VERSION
from upscaled_protocol.admission import GOING_DOWN
from upscaled_protocol.envelope import Envelope, open_envelope
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.lines import encode_line, has_half_pair
from upscaled_protocol.log import Logger
from upscaled_protocol.stdio import Wire
from upscaled_supervisor.fleet import Fleet
from upscaled_supervisor.handover import Handover
from upscaled_supervisor.health import HealthRequests
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.options import (
    EXIT_COMPLETED,
    EXIT_HOST_GONE,
    EXIT_NO_WORKER,
    EXIT_SOME_FAILED,
    EXIT_USAGE,
    Options,
)
from upscaled_supervisor.poller import Poller
from upscaled_supervisor.queue import Job
from upscaled_supervisor.slots import starvation
from upscaled_supervisor.stdio import HostWire
from upscaled_supervisor.system import System

# The longest time until a stall, a deadline or a restart is noticed: while jobs are in flight or a
# slot has no worker, and otherwise.
_TICK_S = 0.05
_IDLE_TICK_S = 1.0
# How long an `accepted` waits for its job's next message, so that one write carries both.
_JOIN_S = 0.001
# How often the workers' memory is measured, and a full disk is tried again.
_CHECK_S = 1.0
# If a turn takes this much longer than its timeout, this process was suspended.
_SUSPENDED_S = 1.0
# How long the last results wait for a host that does not read: after a signal, and after a second
# one.
_LAST_FLUSH_S = 10.0
_LAST_FLUSH_NOW_S = 1.0


class HostGoneError(Exception):
    """The host has closed our stdout, or one of the two streams is broken."""


class Supervisor:
    """Runs from the first line of the host to the last terminal event."""

    def __init__(
        self, wire: Wire, options: Options, log: Logger, system: System, poller: Poller
    ) -> None:
        self._options = options
        self._log = log
        self._system = system
        self._poller = poller
        self._host = HostWire(wire, options.line_limit_bytes)
        self._ledger = Ledger(self._host.outbox, system, log, options.max_queue)
        self._admission = self._ledger.admission
        self._fleet = Fleet(
            options=options,
            ledger=self._ledger,
            poller=poller,
            system=system,
            log=log,
            send_status=self._send,
        )
        self._health = HealthRequests(self._fleet, self._ledger, system)
        self._handover = Handover(
            options,
            self._ledger,
            system,
            log,
            serve_metrics=self._serve_metrics,
            announce_degraded=self._announce_degraded,
        )
        self._is_started = False
        self._reading = False
        self._input_ended = False
        self._draining = False
        self._stopping = False
        self._left_jobs = False
        self._drain_until: float | None = None
        self._last_flush_s = _LAST_FLUSH_S
        self._polled_at = system.now()
        self._next_tick = 0.0
        self._next_check = 0.0

    def run(self) -> int:
        """Serve until the host is done or gone; the exit status, which `options` lists."""
        try:
            if not self._is_started and not self.start():
                return self._exit_status()
            while not self.is_done():
                self.turn()
            self._send({"type": "status", "message": "stopped"})
            self._flush_to_the_end()
            self._ledger.mark_clean_stop()
        except HostGoneError as error:
            self._ledger.mark_clean_stop()
            why = str(error) or None
            self._log.log("warning", "host_gone", in_flight=len(self._ledger.jobs), detail=why)
            return EXIT_HOST_GONE
        finally:
            self._fleet.kill()
            if self._ledger.journal is not None:
                self._ledger.journal.close()
        return self._exit_status()

    def start(self) -> bool:
        """Start the workers; False if an option cannot be served. `run` calls it."""
        signals = self._system.catch_signals()
        self._send({"type": "status", "message": "loading_models", "protocol": PROTOCOL_VERSION})
        self._handover.proceed(self._system.now())
        if self._handover.exit_status is not None:
            return False
        self._flush_host()
        self._system.become_subreaper()
        self._poller.watch_reading(self._host.watch_fd, self._handle_host_gone, events=0)
        self._poller.watch_reading(signals, lambda: self._handle_signals(signals))
        self._fleet.start()
        self._is_started = True
        return True

    def _serve_metrics(self, address: str) -> None:
        from upscaled_supervisor.metrics import serve_metrics

        serve_metrics(address, self._fleet, self._ledger, self._host.outbox)

    def _announce_degraded(self, detail: str) -> None:
        self._send({"type": "status", "message": "degraded", "detail": detail})

    def turn(self) -> None:
        """Wait until something happens, and handle all of it. `run` calls it."""
        self._watch_host()
        outbox = self._host.outbox
        held_back = outbox.waiting_bytes and outbox.can_wait
        timeout_s = self._next_tick - self._system.now()
        if held_back:
            timeout_s = min(timeout_s, _JOIN_S)
        if self._ledger.replays.can_send:
            timeout_s = 0.0
        self._poller.run_once(timeout_s)
        now = self._system.now()
        if now - self._polled_at - max(timeout_s, 0.0) > _SUSPENDED_S:
            self._fleet.extend_deadlines(now - self._polled_at)
        self._polled_at = now
        # A slot without a worker is filled at once, not at the next tick.
        if now >= self._next_tick or not self._fleet.is_settled:
            self._tick(now)
        self._answer_health()
        self._admission.admit()
        self._ledger.replays.send()
        if not self._host.is_behind:
            self._fleet.dispatch()
        self._fleet.flush()  # before the host's lines, so that the workers start at once
        if held_back or not outbox.can_wait:
            self._flush_host()

    def _answer_health(self) -> None:
        for request_id in self._health.pop_answerable():
            report = self._health.report(
                request_id,
                draining=self._draining,
                missing=self._handover.detail,
                dropped_progress=self._host.outbox.dropped_progress,
            )
            self._send(report)

    def is_done(self) -> bool:
        """True once nothing is left to do and every worker has exited. `run` calls it."""
        if self._fleet.has_usage_error:
            text = f"no worker can be started: {self._fleet.failure}"
            self._end_jobs(ErrorCode.WORKER_CRASHED, text, retryable=False)
            return True
        if self._handover.exit_status is not None:
            return True
        if self._draining and not self._stopping and (why := starvation(self._fleet.slots)):
            self._fleet.failure = why
            self._end_jobs(ErrorCode.WORKER_CRASHED, f"no worker can be started: {why}")
            return True
        is_busy = self._ledger.jobs or self._ledger.replays.is_waiting or self._admission.is_holding
        if self._drain_until is None:
            # After a signal, the journal's jobs are left to the next start. Without one, wrong
            # options of the workers are told, also if there was no job.
            is_busy = is_busy or self._ledger.awaits_journal or not self._fleet.has_read_options
        if not self._draining or is_busy:
            return False
        if not self._stopping:
            self._stopping = True
            self._next_tick = 0.0
            self._fleet.stop()
        return self._fleet.is_gone

    def _exit_status(self) -> int:
        if self._handover.exit_status is not None:
            return self._handover.exit_status
        if self._fleet.has_usage_error:
            return EXIT_USAGE
        if self._fleet.failure is not None:
            return EXIT_NO_WORKER
        failed = self._ledger.failed or self._admission.refused or self._left_jobs
        return EXIT_SOME_FAILED if failed else EXIT_COMPLETED

    # --- the host ---------------------------------------------------------------------------

    def _watch_host(self) -> None:
        """Read the host's lines, unless it must read ours first or too many jobs are held.

        They are read while draining too, because the host may cancel jobs.
        """
        wanted = not (self._input_ended or self._host.is_behind or self._admission.is_full)
        if wanted and not self._reading:
            self._poller.watch_reading(self._host.read_fd, self._read_host)
        elif self._reading and not wanted:
            self._poller.forget(self._host.read_fd)
        self._reading = wanted

    def _read_host(self) -> None:
        try:
            lines, self._input_ended = self._host.read()
        except OSError as error:
            raise HostGoneError(f"stdin cannot be read: {error}") from None
        for line in lines:
            self._handle_line(line)
        if self._input_ended:
            self._drain()

    def _handle_line(self, line: bytes | JobError) -> None:
        try:
            if isinstance(line, JobError):
                raise line
            self._handle_message(open_envelope(line), line)
        except JobError as error:
            self._admission.refuse(error)

    def _handle_message(self, envelope: Envelope, line: bytes) -> None:
        match envelope.type:
            case "job":
                job = Job(envelope, line)
                self._admission.offer(job, len(job.line))
            case "cancel":
                self._cancel(envelope.job_id or "")
            case "health":
                self._health.ask(envelope.request_id)
            case "trim":
                self._health.ask(envelope.request_id, trim=True)
            case "replay":
                self._replay(envelope.fields.get("job_ids"))
            case "shutdown":
                self._drain()
            case _ as unknown:
                assert_never(unknown)

    def _cancel(self, job_id: str) -> None:
        if self._ledger.cancel_held(job_id):
            return
        job = self._ledger.jobs.get(job_id)
        if job is None:
            self._admission.note_cancel(job_id)
        elif not self._fleet.end_job(job, "cancel"):
            self._ledger.fail_cancelled(job)

    def _replay(self, job_ids: Any) -> None:
        is_list = isinstance(job_ids, list) and all(
            isinstance(one, str) and not has_half_pair(one) for one in job_ids
        )
        if job_ids is None or is_list:
            self._ledger.replay(job_ids)
        else:
            text = "job_ids must be a list of job ids, or left out"
            self._admission.refuse(JobError(ErrorCode.INVALID_JOB, text))

    def _send(self, message: dict[str, Any]) -> None:
        fields = {name: value for name, value in message.items() if value is not None}
        self._host.outbox.put(encode_line(fields))

    def _flush_host(self) -> None:
        outbox = self._host.outbox
        if outbox.waiting_bytes:
            try:
                outbox.flush()
            except OSError as error:
                raise HostGoneError(f"stdout cannot be written: {error}") from None
        self._poller.watch_writing(outbox, lambda: None)  # `turn` flushes every time

    def _flush_to_the_end(self) -> None:
        """Write the last lines. The host may take any time for them, unless there was a signal."""
        signalled_at = None
        self._flush_host()
        while self._host.outbox.waiting_bytes:
            now = self._system.now()
            if signalled_at is None and self._drain_until is not None:
                signalled_at = now
            if signalled_at is not None and now > signalled_at + self._last_flush_s:
                break
            self._watch_host()  # an input that has ended would be ready at once, again and again
            self._poller.run_once(_TICK_S if self._drain_until is not None else _IDLE_TICK_S)
            self._flush_host()

    def _handle_host_gone(self) -> None:
        raise HostGoneError

    # --- ending -----------------------------------------------------------------------------

    def _drain(self, grace_s: float | None = None) -> None:
        """Take no more jobs, and finish those whose lines came before.

        grace_s: finish only the accepted ones, and only for this long.
        """
        if grace_s is not None and self._drain_until is None:
            self._drain_until = self._system.now() + grace_s
            self._admission.refuse_held(ErrorCode.SHUTTING_DOWN, GOING_DOWN)
            self._ledger.mark_clean_stop()
        if not self._draining:
            self._draining = True
            self._admission.close()
            self._send({"type": "status", "message": "draining"})

    def _end_now(self) -> None:
        """End the remaining jobs and the workers at once."""
        self._drain(0.0)
        self._end_jobs(ErrorCode.SHUTTING_DOWN, "the daemon went down before the job was done")
        self._ledger.replays.clear()
        self._fleet.kill()

    def _end_jobs(self, code: ErrorCode, text: str, *, retryable: bool | None = None) -> None:
        """End every job with this error; with a journal, leave them to the next start."""
        self._admission.refuse_held(code, text, retryable=retryable)
        for job in list(self._ledger.jobs.values()):
            if self._ledger.journal is None:
                self._ledger.fail(job, code, text, retryable=retryable)
            else:
                self._ledger.drop(job)
                self._left_jobs = True

    def _handle_signals(self, fd: int) -> None:
        for signum in os.read(fd, 4096):
            if signum == signal.SIGHUP:
                self._fleet.reload()
            elif signum == signal.SIGCHLD:
                self._fleet.reap()
            elif self._drain_until is not None:
                self._last_flush_s = _LAST_FLUSH_NOW_S
                self._end_now()  # the second signal
            else:
                self._drain(self._options.grace_s)
        self._next_tick = 0.0

    # --- the clock --------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        is_busy = self._ledger.jobs or self._ledger.replays.is_waiting
        if self._drain_until is not None and now > self._drain_until and is_busy:
            self._end_now()
        for job in self._ledger.deadlines.pop_passed(now):
            if not self._fleet.end_job(job, "deadline"):
                self._ledger.fail_deadline(job)
        self._fleet.tick(now)
        self._ledger.record_running()
        if now >= self._next_check:
            self._next_check = now + _CHECK_S
            self._handover.proceed(now)
            self._ledger.catch_up()
            if self._options.recycles:
                self._fleet.recycle_due(now)
        is_busy = self._ledger.jobs or self._health.is_waiting or not self._fleet.is_settled
        self._next_tick = now + (_TICK_S if is_busy else _IDLE_TICK_S)
