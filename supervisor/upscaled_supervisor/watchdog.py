"""Ending workers that are overdue: with being ready, with a sign of life, with their own death."""

from __future__ import annotations

from collections.abc import Callable

from upscaled_protocol.log import Logger
from upscaled_supervisor.causes import Cause
from upscaled_supervisor.child import Child
from upscaled_supervisor.options import Options


class Watchdog:
    """Looks at one worker at a time. `end_fork_server` ends one that does not report exits."""

    def __init__(
        self, options: Options, log: Logger, *, end_fork_server: Callable[[], None]
    ) -> None:
        self._options = options
        self._log = log
        self._end_fork_server = end_fork_server

    def check(self, child: Child, now: float) -> None:
        """End a worker whose time is up."""
        if child.kill_at is not None and now >= child.kill_at:
            self._insist(child)
        elif child.end_cause is None:
            self._check_living(child, now)

    def _insist(self, child: Child) -> None:
        """It should have been dead by now."""
        if child.was_killed and child.is_dead_unreported:
            self._end_fork_server()
        elif child.end_cause is None and child.state != "stopping":
            child.end_for_violation("its output has ended")
        else:
            child.end(child.end_cause or Cause("reload"))

    def _check_living(self, child: Child, now: float) -> None:
        starting_s = now - child.spawned_at
        if child.state == "starting" and starting_s > self._options.start_timeout_s:
            detail = f"not ready after {starting_s:.0f} s"
            child.end(Cause("load_failed", detail=detail), abort=True)
        elif (job := child.stalled_job(now)) is not None:
            detail = f"no sign of life for {now - job.heard_at:.1f} s"
            child.end(Cause("stall", detail=detail), [job], abort=True)
            self._log.log("warning", "worker_stalled", worker=child.slot, job_id=job.job_id)
        else:
            overdue = [job for job in child.jobs.values() if job.ending and now > job.ends_at]
            if overdue:
                child.end(Cause(overdue[0].ending or ""), overdue[:1], abort=True)
