"""Which worker gets which job, and where a worker's jobs go when it leaves."""

from __future__ import annotations

import orjson

from upscaled_protocol.envelope import not_served
from upscaled_protocol.errors import ErrorCode
from upscaled_supervisor.causes import Cause
from upscaled_supervisor.child import Child
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.options import Options
from upscaled_supervisor.queue import Job
from upscaled_supervisor.system import System


class Dispatcher:
    """Gives jobs to the workers that have room: the least loaded first, then one with the model.

    `children` are the workers by number, kept by their owner.
    """

    def __init__(
        self, children: dict[int, Child], ledger: Ledger, options: Options, system: System
    ) -> None:
        self._children = children
        self._ledger = ledger
        self._options = options
        self._system = system

    def dispatch(self) -> None:
        """Give the workers as many waiting jobs as they have room for."""
        self._move_reserved()
        queue = self._ledger.queue
        while len(queue):
            room = self._room()
            job = queue.peek(room, with_kill_suspects=not self._has_running_suspect())
            if job is None:
                self._fail_unserved()
                return
            queue.remove(job)
            child = min(
                room[job.method],
                key=lambda one: (
                    len(one.jobs),
                    job.model not in one.models,
                    len(one.models),
                ),
            )
            if job.is_suspect and child.jobs:
                # A worker exited while it ran. If that happens again, no other job must be lost.
                child.reserved_for = job
            else:
                self._give(job, child)

    def fail_all(self, text: str) -> None:
        """End every waiting job, because no worker can be started."""
        for job in list(self._ledger.queue):
            self._ledger.fail(job, ErrorCode.WORKER_CRASHED, text)

    def end_job(self, job: Job, reason: str) -> bool:
        """Ask a job's worker to end it, for reason "cancel" or "deadline"; False if no worker has
        the job."""
        for child in self._children.values():
            if child.reserved_for is job:
                child.reserved_for = None
                return False
            if child.jobs.get(job.job_id) is job:
                if job.ending is None:
                    job.ending = reason
                    job.ends_at = self._system.now() + self._options.cancel_grace_s
                    child.send(orjson.dumps({"type": "cancel", "job_id": job.job_id}))
                return True
        return False

    def settle(self, child: Child) -> None:
        """Call this when a worker may have no jobs left: it gets the job that it is reserved for,
        or it exits if it drains."""
        if child.jobs:
            return
        if child.reserved_for is not None:
            job, child.reserved_for = child.reserved_for, None
            if child.state == "ready":
                self._give(job, child)
            else:
                self._ledger.requeue(job)
        if child.state == "draining" and not child.jobs:
            child.stop()

    def requeue_unstarted(self, child: Child, job: Job) -> None:
        """Requeue a job that reached its worker too late and never started there."""
        child.remove(job)
        self._ledger.handle_lost_worker(job, None)
        self.settle(child)

    def requeue_reserved(self, child: Child) -> None:
        """Requeue the job that a worker is reserved for."""
        if child.reserved_for is not None:
            self._ledger.requeue(child.reserved_for)
            child.reserved_for = None

    def requeue_all(self, child: Child, cause: Cause) -> None:
        """Requeue or end the jobs of a worker that has exited for this cause."""
        for job in child.jobs.values():
            # If the supervisor ended the worker, it was because of the charged jobs only.
            is_charged = child.end_cause is None or job in child.charged
            self._ledger.handle_lost_worker(job, cause if is_charged else None)
        child.jobs.clear()

    def _give(self, job: Job, child: Child) -> None:
        job.started_at = job.progress_at = self._system.now()
        job.budget_s = self._options.stall_timeout_s
        job.waiting = False
        if not child.jobs:
            self._ledger.mark_running(job)
        child.jobs[job.job_id] = job
        child.models.add(job.model)
        child.send(job.line_for_worker)

    def _move_reserved(self) -> None:
        """A job that must run alone is reserved for a busy worker: give it to an idle one."""
        for child in self._children.values():
            job = child.reserved_for
            if job is not None:
                idle = [one for one in self._room().get(job.method, []) if not one.jobs]
                if idle:
                    child.reserved_for = None
                    self._give(job, idle[0])

    def _room(self) -> dict[str, list[Child]]:
        """By method, the workers that can take one more job of it."""
        room: dict[str, list[Child]] = {}
        for child in self._children.values():
            if child.state != "ready" or child.runs_alone:
                continue
            for lane in child.lanes.values():
                if child.free_places(lane) > 0:
                    for method in lane["methods"]:
                        room.setdefault(method, []).append(child)
        return room

    def _has_running_suspect(self) -> bool:
        """True if a job runs that also ran when a daemon was killed.

        Such jobs are tried again one at a time. If two ran at the next kill, it would not show
        which of them is the reason.
        """
        if not self._ledger.has_kill_suspects:
            return False
        return any(
            job.is_kill_suspect
            for child in self._children.values()
            for job in (*child.jobs.values(), child.reserved_for)
            if job is not None
        )

    def _fail_unserved(self) -> None:
        """End the jobs whose method no ready worker serves."""
        ready = [child for child in self._children.values() if child.state == "ready"]
        if not ready:
            return
        served = {
            method for child in ready for lane in child.lanes.values() for method in lane["methods"]
        }
        if served.issuperset(self._ledger.queue.methods):
            return
        for job in [job for job in self._ledger.queue if job.method not in served]:
            self._ledger.fail(job, ErrorCode.UNKNOWN_METHOD, not_served(job.method, served))
