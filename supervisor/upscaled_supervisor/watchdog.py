"""Kills workers that are overdue: to be ready, to make progress, to exit."""

from __future__ import annotations

from collections.abc import Callable

from upscaled_protocol.log import Logger
from upscaled_supervisor.causes import Cause
from upscaled_supervisor.child import Child
from upscaled_supervisor.options import Options


class Watchdog:
    """Checks one worker at a time. `kill_fork_server` is for one that does not report exits."""

    def __init__(
        self, options: Options, log: Logger, *, kill_fork_server: Callable[[], None]
    ) -> None:
        self._options = options
        self._log = log
        self._kill_fork_server = kill_fork_server

    def check(self, child: Child, now: float) -> None:
        """End a worker that is past a deadline."""
        if child.kill_at is not None and now >= child.kill_at:
            self._kill_again(child)
        elif child.end_cause is None:
            self._check_running(child, now)

    def _kill_again(self, child: Child) -> None:
        """The worker is past its kill deadline."""
        if child.was_killed and child.has_exited:
            self._kill_fork_server()
        elif child.end_cause is None and child.state != "stopping":
            child.end_for_violation("its output has ended")
        else:
            child.end(child.end_cause or Cause("reload"))

    def _check_running(self, child: Child, now: float) -> None:
        starting_s = now - child.spawned_at
        if child.state == "starting" and starting_s > self._options.start_timeout_s:
            detail = f"not ready after {starting_s:.0f} s"
            child.end(Cause("load_failed", detail=detail), abort=True)
        elif (job := child.stalled_job(now)) is not None:
            detail = f"no progress for {now - job.progress_at:.1f} s"
            child.end(Cause("stall", detail=detail), [job], abort=True)
            self._log.log("warning", "worker_stalled", worker=child.slot, job_id=job.job_id)
        else:
            overdue = [job for job in child.jobs.values() if job.ending and now > job.ends_at]
            if overdue:
                child.end(Cause(overdue[0].ending or ""), overdue[:1], abort=True)
