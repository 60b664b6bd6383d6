"""One worker process as its supervisor sees it."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Collection
from typing import Any, Literal

from upscaled_supervisor.causes import Cause
from upscaled_supervisor.devices import Placement
from upscaled_supervisor.pipes import Pipes
from upscaled_supervisor.queue import Job
from upscaled_supervisor.system import System

State = Literal["starting", "ready", "draining", "stopping", "exited"]

# After SIGABRT: time for the stacks of all threads to be written.
ABORT_GRACE_S = 2.0
# A worker's reader answers at once, whatever its engines do. A stopped process never answers.
ANSWER_TIMEOUT_S = 1.0
# An idle worker, or one whose stdout has ended, has no job to finish. Only a driver that gives a
# GPU back takes time.
LEAVE_TIMEOUT_S = 10.0
# Lines of a worker's stderr that are kept, for the cause of its exit.
_KEPT_STDERR_LINES = 20


class Child:
    """A worker's pipes, state and jobs in flight. `Fleet` decides what happens to it."""

    def __init__(
        self, number: int, slot: int, placement: Placement, pipes: Pipes, system: System
    ) -> None:
        self.number = number  # unique over the supervisor's life
        self.slot = slot  # number of its slot, which decides its device
        self.placement = placement
        self.pipes = pipes
        self._system = system
        self.state: State = "starting"
        self.pid: int | None = None
        self.ready: dict[str, Any] = {}  # its latest `ready` message
        self.lanes: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, Job] = {}
        self.models: set[str] = set()
        self.jobs_done = 0
        self.spawned_at = system.now()
        self.reserved_for: Job | None = None  # runs alone here, after the jobs in flight
        # Set if the supervisor ends the worker. Only the `charged` jobs count an attempt then.
        self.end_cause: Cause | None = None
        self.charged: Collection[Job] = ()
        self.kill_at: float | None = None
        self.was_killed = False
        self.health: dict[str, Any] | None = None
        self.health_asked_at: float | None = None
        self.trims_due = 0  # sent and not answered yet
        self._oom_kills_before = system.count_oom_kills()
        self._last_stderr: deque[bytes] = deque(maxlen=_KEPT_STDERR_LINES)

    def read_stderr(self) -> tuple[list[bytes], bool]:
        """The lines that the worker has logged and printed, and whether the stream has ended."""
        lines, ended = self.pipes.read_stderr()
        self._last_stderr.extend(lines)
        return lines, ended

    @property
    def last_printed_line(self) -> str | None:
        """The last line on its stderr that is not a log line."""
        for line in reversed(self._last_stderr):
            if not line.startswith(b"{"):
                return line.decode(errors="replace").strip()[:200]
        return None

    @property
    def oom_kills(self) -> int:
        """OOM kills by the kernel since the worker was started."""
        return self._system.count_oom_kills() - self._oom_kills_before

    @property
    def runs_alone(self) -> bool:
        """True if it runs a job that must run alone, or is reserved for one."""
        return self.reserved_for is not None or any(job.is_suspect for job in self.jobs.values())

    def free_places(self, lane: dict[str, Any]) -> int:
        """How many more jobs one of its lanes takes."""
        taken = sum(job.method in lane["methods"] for job in self.jobs.values())
        return int(lane["slots"]) - taken

    def send(self, line: bytes) -> None:
        """Queue one line without its newline; `Pipes.flush` writes it."""
        self.pipes.outbox.put(line + b"\n")

    def stop(self) -> None:
        """Ask the worker to drain and exit. It is killed if that takes too long."""
        if self.state in ("ready", "draining"):
            self.state = "stopping"
            self.expect_exit(LEAVE_TIMEOUT_S)
            self.send(b'{"type":"shutdown"}')

    def ask_health(self) -> None:
        """Ask for a report. When it arrives, `health` is new and `health_asked_at` is None."""
        if self.state == "ready" and self.health_asked_at is None:
            self.health_asked_at = self._system.now()
            self.send(b'{"type":"health"}')

    def ask_trim(self) -> None:
        """Ask the worker to free memory. `trims_due` is 0 again when that is done."""
        if self.state == "ready":
            self.trims_due += 1
            self.send(b'{"type":"trim"}')

    def handle_health(self, report: dict[str, Any]) -> None:
        """Keep a report. It answers a `health` or a `trim`, and does not say which; that is no
        matter, because once both reports are here, both requests are done."""
        self.health = report
        if self.health_asked_at is not None:
            self.health_asked_at = None
        elif self.trims_due:
            self.trims_due -= 1

    @property
    def models_loaded(self) -> list[str]:
        """The models of its latest report."""
        return list(self.health["models_loaded"]) if self.health else []

    def end(self, cause: Cause, charged: Collection[Job] = (), *, abort: bool = False) -> None:
        """Kill the worker and every process in its group, because of the `charged` jobs.

        abort: send SIGABRT first, so that the worker writes the stacks of its threads.
        """
        if self.end_cause is None:
            self.end_cause = cause
            self.charged = charged
        if abort and self.kill_at is None:
            self._send_signal(signal.SIGABRT)
        else:
            self.kill()
        # Then again until it has exited: it may have no pid yet.
        self.expect_exit(ABORT_GRACE_S)

    def end_for_violation(self, detail: str) -> None:
        """Kill the worker because it broke the protocol. Any of its jobs may be the reason."""
        cause = Cause("protocol_violation", detail=detail)
        self.end(cause, list(self.jobs.values()))

    def expect_exit(self, within_s: float) -> None:
        """Set the time at which the worker is killed, or killed again."""
        self.kill_at = self._system.now() + within_s

    def kill(self) -> None:
        """SIGKILL the worker and every process in its group."""
        self.was_killed = True
        self._send_signal(signal.SIGKILL)

    def _send_signal(self, signum: int) -> None:
        if self.pid is not None:
            self._system.send_signal(self.pid, signum)

    @property
    def has_exited(self) -> bool:
        """True if its process is gone or was never started, even if no exit was reported."""
        return self.pid is None or self._system.has_exited(self.pid)

    @property
    def resident_mb(self) -> float | None:
        """Resident memory in MiB; None if the process is gone or not started yet."""
        return None if self.pid is None else self._system.resident_mb(self.pid)

    @property
    def is_late(self) -> bool:
        """True if a report is overdue."""
        asked_at = self.health_asked_at
        return asked_at is not None and self._system.now() - asked_at > ANSWER_TIMEOUT_S

    @property
    def is_unresponsive(self) -> bool:
        """True if it should take jobs and does not answer."""
        return self.state == "ready" and self.is_late

    def stalled_job(self, now: float) -> Job | None:
        """A job that has made no progress for longer than its budget."""
        for lane in self.lanes.values():
            jobs = [job for job in self.jobs.values() if job.method in lane["methods"]]
            # If every job of a lane reports `waiting`, no job holds the device: watch all of them.
            for job in [job for job in jobs if not job.waiting] or jobs:
                if now > job.progress_at + job.budget_s:
                    return job
        return None

    def remove(self, job: Job) -> None:
        """Forget a job. The jobs that waited behind it may start now, so their clocks restart."""
        del self.jobs[job.job_id]
        now = self._system.now()
        for other in self.jobs.values():
            if other.waiting:
                other.progress_at = now

    def extend_deadlines(self, seconds: float) -> None:
        """Extend every deadline of the worker and its jobs."""
        self.spawned_at += seconds
        if self.kill_at is not None:
            self.kill_at += seconds
        if self.health_asked_at is not None:
            self.health_asked_at += seconds
        for job in self.jobs.values():
            job.progress_at += seconds
            job.ends_at += seconds

    def close(self) -> None:
        """Close the pipes of a worker that is gone."""
        self.state = "exited"
        self.pipes.close()
