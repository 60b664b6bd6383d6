"""The workers: started, given jobs, watched, replaced, ended.

A *slot* is a place in the fleet (and its device); a *child* is the process that fills it for now.
While a child is recycled its slot has two: the old one works until the new one is ready.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson

from upscaled_protocol.envelope import WAITING_STAGE
from upscaled_protocol.errors import ErrorCode
from upscaled_protocol.lineage import kill_descendants, kill_group
from upscaled_protocol.log import Logger
from upscaled_supervisor.causes import Cause, cause_of_exit, count_oom_kills
from upscaled_supervisor.child import Child
from upscaled_supervisor.devices import Placement
from upscaled_supervisor.dispatch import Dispatcher
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.memory import MemoryWatch
from upscaled_supervisor.nursery import Nursery
from upscaled_supervisor.options import EXIT_USAGE, Options
from upscaled_supervisor.poller import Poller
from upscaled_supervisor.queue import Job
from upscaled_supervisor.recycling import Recycler
from upscaled_supervisor.slots import Slot


class Fleet:
    """Keeps the slots filled and the jobs going. `tell_host` sends a status message."""

    def __init__(
        self,
        options: Options,
        ledger: Ledger,
        poller: Poller,
        log: Logger,
        tell_host: Callable[[dict[str, Any]], None],
    ) -> None:
        self._options = options
        self._ledger = ledger
        self._poller = poller
        self._log = log
        self._tell_host = tell_host
        self._next_number = 0
        self._was_ready = False
        self._is_degraded = False
        self._closing = False
        self.nursery: Nursery | None = None
        self.memory = MemoryWatch(options.memory_limit_mb, options.gpu_memory_limit_mb, log)
        self.slots = [
            Slot(number, placement)
            for number, placement in enumerate(Placement.for_workers(options))
        ]
        self.children: dict[int, Child] = {}  # by number: also the recycled and the replacements
        self._dispatcher = Dispatcher(self.children, ledger, options)
        self._recycler = Recycler(
            self.slots, self.children, self.memory, options, log, replace=self._replace
        )
        self.restarts: Counter[str] = Counter()  # by reason
        self.failure: str | None = None  # why no worker can be had, where that is so
        self.has_usage_error = False

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the nursery, and a worker in each slot."""
        self._start_nursery()
        for slot in self.slots:
            self._spawn(slot)

    @property
    def state(self) -> str:
        """For `health`: what is true right now."""
        if self.failure is not None:
            return "failed"
        if not self._was_ready:
            return "loading"
        serving = all(slot.is_serving for slot in self.slots)
        broken = any(child.ready.get("detail") for child in self.children.values())
        return "ok" if serving and not broken else "degraded"

    @property
    def is_settled(self) -> bool:
        """Whether every worker idles, so that nothing can fall due soon."""
        serving = all(slot.is_serving for slot in self.slots)
        return serving and len(self.children) == len(self.slots)

    def reload(self) -> None:
        """Replace every worker, one after the other; try again where we had given up."""
        if self.failure is None:
            self._recycler.reload()
            return
        self.failure = None
        for slot in self.slots:
            slot.start_over()

    def stop(self) -> None:
        """Have the workers leave; call it once no job is left."""
        self._closing = True
        for child in self.children.values():
            if child.state == "starting":
                child.end(Cause("reload"))  # it would finish loading first
            else:
                child.stop()

    @property
    def is_gone(self) -> bool:
        """Whether `stop` has done its work. Who has no pid yet ends with the nursery."""
        return all(child.pid is None for child in self.children.values())

    def kill(self) -> None:
        """End everything at once, down to the last grandchild, and wait until that is so."""
        self._closing = True
        for child in list(self.children.values()):
            child.kill()
            self._forget(child)
        if self.nursery is not None:
            # It kills what the groups' signals missed; and we, what was handed up to us.
            self._poller.forget(self.nursery.fd)
            self.nursery.close()
            self.nursery.wait()
            self.nursery = None
            kill_descendants()

    def dispatch(self) -> None:
        """Hand out waiting jobs; where no worker can be had, answer them with the reason."""
        if self.failure is None:
            self._dispatcher.dispatch()
            return
        for job in list(self._ledger.queue):
            text = f"no worker can be started: {self.failure}"
            self._ledger.fail(job, ErrorCode.WORKER_CRASHED, text)

    def end_job(self, job: Job, reason: str) -> bool:
        """Have the worker stop a job, for reason "cancel" or "deadline"; False where it waits."""
        return self._dispatcher.end_job(job, reason)

    def flush(self) -> None:
        """Write what waits for the workers."""
        for child in self.children.values():
            if child.outbox.waiting_bytes:
                child.flush()
                self._poller.watch_writing(child.outbox, child.flush)

    # --- what workers say -------------------------------------------------------------------

    def _read_stdout(self, child: Child) -> None:
        lines, ended = child.read_stdout()
        for line in lines:
            self._handle_line(child, line)
        if ended:
            self._poller.forget(child.stdout_fd)

    def _read_stderr(self, child: Child) -> None:
        lines, ended = child.read_stderr()
        for line in lines:
            self._log.write(line + b"\n")
        if ended:
            self._poller.forget(child.stderr_fd)

    def _handle_line(self, child: Child, line: bytes) -> None:
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError:
            # Only a line that death cut short: the wire belongs to the worker's one writer.
            self._log.log("warning", "worker_line_unreadable", worker=child.slot)
            return
        kind = fields["type"]
        if kind == "status":
            self._handle_status(child, fields)
        elif kind == "health":
            child.health = fields
            child.health_asked_at = None
        elif (job := child.jobs.get(fields["job_id"])) is None:
            self._log.log("warning", "worker_line_unexpected", worker=child.slot, line=kind)
        elif kind == "progress":
            job.heard_at = time.monotonic()
            job.budget_s = fields.get("budget_s") or self._options.stall_timeout_s
            job.waiting = fields["stage"] == WAITING_STAGE
            self._ledger.progress(job, line, fields)
        else:
            self._handle_terminal(child, job, fields, line)

    def _handle_terminal(self, child: Child, job: Job, fields: dict[str, Any], line: bytes) -> None:
        del child.jobs[job.job_id]
        child.jobs_done += 1
        self.slots[child.slot].failures = 0
        if job.ending == "deadline" and fields.get("code") == ErrorCode.CANCELLED:
            self._ledger.fail_deadline(job)
        else:
            self._ledger.finish(job, line, fields.get("code", "completed"))
        self.memory.note_job(child, job.model)
        self._settle(child)

    def _handle_status(self, child: Child, fields: dict[str, Any]) -> None:
        if fields["message"] != "ready":
            return
        slot = self.slots[child.slot]
        slot.load_failures = 0
        slot.child = child
        child.state = "ready"
        child.ready = fields
        child.lanes = fields["lanes"]
        self.memory.note_ready(child)
        self._log.log("info", "worker_ready", worker=child.slot, worker_pid=child.pid)
        if child.replaces is not None:
            replaced, child.replaces = child.replaces, None
            replaced.state = "draining"
            self._settle(replaced)
        if not self._was_ready or self._is_degraded:
            self._was_ready, self._is_degraded = True, False
            if fields.get("detail"):
                degraded = {"type": "status", "message": "degraded", "worker": child.slot}
                self._tell_host(degraded | {"detail": fields["detail"]})
            self._tell_host(fields | {"pid": os.getpid()})
        if slot.last_restart is not None:
            status = {"type": "status", "message": "worker_restarted", "worker": child.slot}
            self._tell_host(status | {"pid": child.pid, "cause": slot.last_restart})

    def _settle(self, child: Child) -> None:
        """After a child lost a job: what waited for it to have none."""
        if child.jobs:
            return
        if child.reserved_for is not None:
            job, child.reserved_for = child.reserved_for, None
            if child.state == "ready":
                self._dispatcher.hand_over(job, child)
            else:
                self._ledger.retry(job)
        if child.state == "draining" and not child.jobs:
            child.stop()

    # --- births and deaths ------------------------------------------------------------------

    def _start_nursery(self) -> None:
        self.nursery = Nursery(self._options.worker_argv, template=self._options.template)
        self._poller.watch_reading(self.nursery.fd, self._read_nursery)

    def _spawn(self, slot: Slot, replaces: Child | None = None) -> None:
        if self.nursery is None:
            self._start_nursery()
        assert self.nursery is not None
        (stdin, to_child), (from_child, stdout), (log, stderr) = (
            os.pipe2(os.O_CLOEXEC) for _ in range(3)
        )
        pipes = (to_child, from_child, log)
        child = Child(self._next_number, slot.number, slot.placement, pipes)
        self._next_number += 1
        child.replaces = replaces
        self.children[child.number] = child
        if replaces is None:
            slot.child = child
        self._poller.watch_reading(child.stdout_fd, lambda: self._read_stdout(child))
        self._poller.watch_reading(child.stderr_fd, lambda: self._read_stderr(child))
        preload = replaces.models_loaded if replaces else []
        argv = ["--supervised", *slot.placement.argv, *(f"--preload={name}" for name in preload)]
        try:
            self.nursery.spawn(child.number, argv, slot.placement.env, [stdin, stdout, stderr])
        except OSError:
            pass  # the nursery is gone, which its own end of the socket tells in a moment
        finally:
            for fd in (stdin, stdout, stderr):
                os.close(fd)

    def _read_nursery(self) -> None:
        assert self.nursery is not None
        messages = self.nursery.read()
        if messages is None:
            return self._lose_nursery()
        for message in messages:
            if "spawn" in message and message["spawn"] in self.children:
                child = self.children[message["spawn"]]
                child.pid = message["pid"]
                if child.end_cause is not None:
                    child.kill()
            elif "exited" in message:
                self._bury_pid(message["exited"], message["status"])
            elif message.get("template") is False and self._options.template:
                self._log.log("warning", "template_unusable", detail="a library has a thread")
        return None

    def _lose_nursery(self) -> None:
        """It was killed, and the kernel killed its workers with it; or it refused the options."""
        assert self.nursery is not None
        self._poller.forget(self.nursery.fd)
        self.nursery.close()
        exit_code = self.nursery.wait()
        kill_descendants()  # what it would have ended was handed up to us
        self.nursery = None
        if exit_code == EXIT_USAGE:
            self.has_usage_error = True
            self.failure = "the workers' options are wrong; stderr says how"
        elif not self._closing:
            self._log.log("error", "nursery_lost", exit_code=exit_code)
        cause = Cause("signal", signal="SIGKILL", detail="its parent process was killed")
        if exit_code > 0:  # it left by itself, and so will the next
            cause = Cause("exit", exit_code=exit_code, detail="its parent process failed")
        for child in list(self.children.values()):
            child.kill()
            child.end_cause = child.end_cause or cause
            self._bury(child, child.end_cause)

    def _bury_pid(self, pid: int, status: int) -> None:
        for child in list(self.children.values()):
            if child.pid == pid:
                oom_kills = count_oom_kills() - child.oom_kills_before
                self._read_stderr(child)
                last_words = None if child.state == "ready" else child.last_line()
                self._bury(child, child.end_cause or cause_of_exit(status, oom_kills, last_words))

    def _bury(self, child: Child, cause: Cause) -> None:
        """A worker is dead: give its jobs back, and its slot a successor."""
        if child.pid is not None:
            kill_group(child.pid)  # what is left of it
        self._read_stdout(child)
        died_loading = child.state == "starting"
        is_expected = child.state == "stopping" and not child.jobs
        self._forget(child)
        slot = self.slots[child.slot]
        if child.reserved_for is not None:
            self._ledger.retry(child.reserved_for)
        for job in child.jobs.values():
            self._give_back(child, job, cause)
        child.jobs.clear()
        if child.replaces is not None:
            self._recycler.give_up(child.replaces)
            self._log.log("warning", "replacement_failed", worker=slot.number, **cause)
            return
        if slot.child is child:
            slot.child = None
        if is_expected or self._closing:
            return
        self._note_restart(slot, cause)
        self._log.log("warning", "worker_gone", worker=slot.number, worker_pid=child.pid, **cause)
        self._plan_restart(slot, child, cause, died_loading=died_loading)

    def _forget(self, child: Child) -> None:
        for fd in (child.stdout_fd, child.stderr_fd, child.outbox.fd):
            self._poller.forget(fd)
        child.close()
        del self.children[child.number]
        self.memory.forget(child)

    def _give_back(self, child: Child, job: Job, cause: Cause) -> None:
        """Decide about a job that was running when its worker died."""
        if job.ending == "cancel":
            self._ledger.fail(job, ErrorCode.CANCELLED, "the job was cancelled")
        elif job.ending == "deadline":
            self._ledger.fail_deadline(job)
        elif child.end_cause is not None and child.culprit is not job:
            self._ledger.retry(job)  # we ended the worker, and not for this job's sake
        else:
            self._ledger.charge(job)
            if job.attempts < job.max_attempts:
                self._ledger.retry(job)
            else:
                self._ledger.fail_for_good(job, cause)

    def _plan_restart(self, slot: Slot, child: Child, cause: Cause, *, died_loading: bool) -> None:
        slot.plan_restart(child, cause, died_loading=died_loading)
        if slot.is_hopeless:
            self.failure = cause.sentence()
            text = f"given up: {self.failure}"
        elif slot.is_failing and not self._is_degraded:
            self._is_degraded = True
            text = f"workers keep dying, and are tried again ever more slowly: {cause.sentence()}"
        else:
            return
        status = {"type": "status", "message": "degraded", "worker": slot.number}
        self._tell_host(status | {"cause": cause, "detail": text})

    # --- the clock --------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Everything that falls due by time alone."""
        for child in list(self.children.values()):
            self._check_child(child, now)
        if self._closing:
            return
        for slot in self.slots:
            if slot.child is None and self.failure is None and now >= slot.respawn_at:
                self._spawn(slot)
        self._recycler.continue_reload()

    def recycle_due(self, now: float) -> None:
        """Replace workers that are too old, have done their jobs, or have grown too large."""
        if not self._closing:
            self._recycler.recycle_due(now)

    def _check_child(self, child: Child, now: float) -> None:
        starting_s = now - child.spawned_at
        if child.kill_at is not None and now >= child.kill_at:
            child.end(child.end_cause or Cause("reload"))
        elif child.end_cause is not None:
            return
        elif child.state == "starting" and starting_s > self._options.start_timeout_s:
            child.end(
                Cause("load_failed", detail=f"not ready after {starting_s:.0f} s"), abort=True
            )
        elif (job := child.stalled_job(now)) is not None:
            child.end(
                Cause("stall", detail=f"no sign of life for {now - job.heard_at:.1f} s"),
                job,
                abort=True,
            )
            self._log.log("warning", "worker_stalled", worker=child.slot, job_id=job.job_id)
        else:
            overdue = [job for job in child.jobs.values() if job.ending and now > job.ends_at]
            if overdue:
                child.end(Cause(overdue[0].ending or ""), overdue[0], abort=True)

    def _note_restart(self, slot: Slot, cause: Cause) -> None:
        slot.restarts += 1
        slot.last_restart = cause
        self.restarts[cause["reason"]] += 1

    def _replace(self, slot: Slot, child: Child, cause: Cause) -> None:
        """Make before break: the old worker goes on until the new one is ready."""
        self._note_restart(slot, cause)
        if self.memory.has_room_for_two(child):
            self._spawn(slot, replaces=child)
        else:
            # Two do not fit: the old one finishes its jobs and goes, then the new one comes.
            child.state = "draining"
            self._settle(child)
