"""Which worker gets which job."""

from __future__ import annotations

import time

import orjson

from upscaled_protocol.errors import ErrorCode
from upscaled_supervisor.child import Child
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.options import Options
from upscaled_supervisor.queue import Job


class Dispatcher:
    """Hands jobs to the workers that have room: the least loaded, with the model if it can be.

    `children` are the workers by number, kept by their owner.
    """

    def __init__(self, children: dict[int, Child], ledger: Ledger, options: Options) -> None:
        self._children = children
        self._ledger = ledger
        self._options = options

    def dispatch(self) -> None:
        """Hand out as many waiting jobs as the workers hold."""
        self._hand_over_reserved()
        queue = self._ledger.queue
        while len(queue):
            room = self._room()
            job = queue.peek(room, with_deaths=not self._has_running_suspect())
            if job is None:
                return self._fail_unserved()
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
                # It took a worker down once; the next time it shall take no other job with it.
                child.reserved_for = job
            else:
                self.hand_over(job, child)
        return None

    def fail_all(self, text: str) -> None:
        """Answer every waiting job: no worker can be had."""
        for job in list(self._ledger.queue):
            self._ledger.fail(job, ErrorCode.WORKER_CRASHED, text)

    def _hand_over_reserved(self) -> None:
        """A job that is to run alone waits for one worker, unless another has nothing to do."""
        for child in self._children.values():
            job = child.reserved_for
            if job is not None:
                idle = [one for one in self._room().get(job.method, []) if not one.jobs]
                if idle:
                    child.reserved_for = None
                    self.hand_over(job, idle[0])

    def end_job(self, job: Job, reason: str) -> bool:
        """Have the worker stop a job, for reason "cancel" or "deadline"; False where it waits."""
        for child in self._children.values():
            if child.reserved_for is job:
                child.reserved_for = None
                return False
            if child.jobs.get(job.job_id) is job:
                if job.ending is None:
                    job.ending = reason
                    job.ends_at = time.monotonic() + self._options.cancel_grace_s
                    child.send(orjson.dumps({"type": "cancel", "job_id": job.job_id}))
                return True
        return False

    def _room(self) -> dict[str, list[Child]]:
        """By method, the children that can take one more job of it."""
        room: dict[str, list[Child]] = {}
        for child in self._children.values():
            if child.state != "ready" or child.is_alone:
                continue
            for lane in child.lanes.values():
                if child.free_slots(lane) > 0:
                    for method in lane["methods"]:
                        room.setdefault(method, []).append(child)
        return room

    def hand_over(self, job: Job, child: Child) -> None:
        """Give a job to a worker."""
        job.started_at = job.heard_at = time.monotonic()
        job.budget_s = self._options.stall_timeout_s
        job.waiting = False
        if not child.jobs:
            self._ledger.note_running(job)
        child.jobs[job.job_id] = job
        child.models.add(job.model)
        child.send(job.line_for_worker)

    def _has_running_suspect(self) -> bool:
        """Whether a job runs that ran when a daemon went down. If several ran then, one of them at
        a time is tried again, because the next death would tell nothing of each of them."""
        if not self._ledger.has_deaths:
            return False
        return any(
            job.deaths
            for child in self._children.values()
            for job in (*child.jobs.values(), child.reserved_for)
            if job is not None
        )

    def _fail_unserved(self) -> None:
        """Answer the jobs of methods that the workers, being ready, do not serve."""
        ready = [child for child in self._children.values() if child.state == "ready"]
        if not ready:
            return
        served = {
            method for child in ready for lane in child.lanes.values() for method in lane["methods"]
        }
        if served.issuperset(self._ledger.queue.methods):
            return
        for job in [job for job in self._ledger.queue if job.method not in served]:
            text = (
                f"method {job.method!r} is not served here; served: {', '.join(sorted(served))}. "
                "`upscaled doctor` says what is missing"
            )
            self._ledger.fail(job, ErrorCode.UNKNOWN_METHOD, text)
