"""The workers' pipes: what they write is read and acted on, and what waits for them is written."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, assert_never

from upscaled_protocol.envelope import WorkerType
from upscaled_protocol.errors import ErrorCode
from upscaled_protocol.log import Logger
from upscaled_supervisor.child import LEAVE_TIMEOUT_S, Child
from upscaled_supervisor.dispatch import Dispatcher
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.memory import MemoryWatch
from upscaled_supervisor.options import Options
from upscaled_supervisor.pipes import MAX_STDOUT_LINE_BYTES
from upscaled_supervisor.poller import Poller
from upscaled_supervisor.queue import Job
from upscaled_supervisor.system import System
from upscaled_supervisor.workerline import read_message

# Bytes of a line that breaks the protocol, for the cause.
_QUOTED_BYTES = 80


class WorkerStreams:
    """Reads and writes the pipes of all workers, driven by the poller.

    `handle_ready` is called for a `ready` message; `handle_signal` if a worker drains because it
    received a signal.
    """

    def __init__(
        self,
        *,
        options: Options,
        ledger: Ledger,
        dispatcher: Dispatcher,
        memory: MemoryWatch,
        poller: Poller,
        system: System,
        log: Logger,
        handle_ready: Callable[[Child, dict[str, Any]], None],
        handle_signal: Callable[[Child, str], None],
    ) -> None:
        self._options = options
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._memory = memory
        self._poller = poller
        self._system = system
        self._log = log
        self._handle_ready = handle_ready
        self._handle_signal = handle_signal

    def watch(self, child: Child) -> None:
        """Read a worker's stdout and stderr from now on."""
        self._poller.watch_reading(child.pipes.stdout_fd, lambda: self.read_stdout(child))
        self._poller.watch_reading(child.pipes.stderr_fd, lambda: self.read_stderr(child))

    def forget(self, child: Child) -> None:
        """Watch a worker's pipes no longer. Call it before they are closed."""
        for fd in child.pipes.fds:
            self._poller.forget(fd)

    def flush(self, child: Child) -> None:
        """Write what waits for a worker; the rest is written when the pipe has room."""
        child.pipes.flush()
        self._poller.watch_writing(child.pipes.outbox, lambda: self.flush(child))

    def read_stdout(self, child: Child) -> None:
        """Act on every line that a worker has written."""
        lines, ended = child.pipes.read_stdout()
        for line in lines:
            self._handle_line(child, line)
        if child.pipes.has_endless_line and child.end_cause is None:
            self._log.log("error", "worker_line_too_long", worker=child.slot)
            child.end_for_violation(f"it wrote a line of more than {MAX_STDOUT_LINE_BYTES} bytes")
        if ended:
            self._poller.forget(child.pipes.stdout_fd)
            if child.state == "ready":
                child.state = "draining"  # it has most likely exited, so it gets no more jobs
            if child.kill_at is None:
                child.expect_exit(LEAVE_TIMEOUT_S)

    def read_stderr(self, child: Child) -> None:
        """Log every line that a worker has logged or printed."""
        lines, ended = child.read_stderr()
        for line in lines:
            self._log.write(line + b"\n")
        if ended:
            self._poller.forget(child.pipes.stderr_fd)

    def _handle_line(self, child: Child, line: bytes) -> None:
        try:
            fields = read_message(line)
            if fields is not None:
                self._handle_message(child, fields, line)
                return
            detail = None
        except Exception:  # noqa: BLE001 - no line of one worker may affect the others
            detail = traceback.format_exc()
        # The line may have been a job's terminal event, so this worker cannot be relied on.
        self._log.log("error", "worker_line_unreadable", worker=child.slot, traceback=detail)
        child.end_for_violation(f"it wrote {line[:_QUOTED_BYTES]!r}")

    def _handle_message(self, child: Child, fields: dict[str, Any], line: bytes) -> None:
        kind: WorkerType = fields["type"]
        match kind:
            case "progress" | "result" | "error":
                self._handle_job_message(child, fields, line)
            case "status":
                self._handle_status(child, fields)
            case "health":
                child.handle_health(fields)
            case "accepted":
                pass  # a supervised worker sends none: `read_message` refuses it
            case _:
                assert_never(kind)

    def _handle_job_message(self, child: Child, fields: dict[str, Any], line: bytes) -> None:
        job = child.jobs.get(fields["job_id"])
        if job is None:
            kind = fields["type"]
            self._log.log("warning", "worker_line_unexpected", worker=child.slot, line=kind)
        elif fields["type"] == "progress":
            job.handle_progress(fields, self._system.now(), self._options.stall_timeout_s)
            self._ledger.progress(job, line, fields)
        else:
            self._handle_terminal(child, job, fields, line)

    def _handle_status(self, child: Child, fields: dict[str, Any]) -> None:
        message = fields["message"]
        if message == "ready" and child.end_cause is None:
            self._handle_ready(child, fields)
        elif message == "draining" and fields.get("detail"):
            self._handle_signal(child, fields["detail"])
        elif message == "stopped" and child.state == "draining":
            for job in list(child.jobs.values()):  # not read: every job that it read has ended
                self._dispatcher.requeue_unstarted(child, job)

    def _handle_terminal(self, child: Child, job: Job, fields: dict[str, Any], line: bytes) -> None:
        outcome = fields["code"] if fields["type"] == "error" else "completed"
        if outcome == ErrorCode.SHUTTING_DOWN and child.state != "ready":
            self._dispatcher.requeue_unstarted(child, job)
            return
        if job.ending == "deadline" and outcome == ErrorCode.CANCELLED:
            self._ledger.fail_deadline(job)
        else:
            self._ledger.finish(job, line, outcome)
        child.remove(job)
        child.jobs_done += 1
        if outcome == "completed":
            self._memory.handle_completed_job(child, job.model)
        else:
            child.models.discard(job.model)  # the model may not exist
        self._dispatcher.settle(child)
