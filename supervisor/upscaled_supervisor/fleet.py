"""The workers: started, given jobs, watched, replaced, stopped.

Fleet ── Slot, Slot, …          each has one worker (`Child`), and two while it is replaced
  ├── Spawner ── fork server    starts workers, reports their exits
  ├── WorkerStreams             reads and writes their pipes
  ├── Dispatcher                gives them jobs from the ledger's queue
  ├── Watchdog                  kills those that are overdue
  └── Recycler ── Succession    replaces those that are too large or too old
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from upscaled_protocol.log import Logger
from upscaled_supervisor.announcer import Announcer
from upscaled_supervisor.causes import Cause
from upscaled_supervisor.child import Child
from upscaled_supervisor.devices import place_workers
from upscaled_supervisor.dispatch import Dispatcher
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.memory import MemoryWatch
from upscaled_supervisor.options import Options
from upscaled_supervisor.poller import Poller
from upscaled_supervisor.queue import Job
from upscaled_supervisor.recycling import Recycler
from upscaled_supervisor.replacement import Succession
from upscaled_supervisor.slots import Slot, starvation
from upscaled_supervisor.spawner import Spawner
from upscaled_supervisor.streams import WorkerStreams
from upscaled_supervisor.system import System
from upscaled_supervisor.watchdog import Watchdog


class Fleet:
    """Keeps every slot filled and every job going. `send_status` sends the host a message."""

    def __init__(
        self,
        *,
        options: Options,
        ledger: Ledger,
        poller: Poller,
        system: System,
        log: Logger,
        send_status: Callable[[dict[str, Any]], None],
    ) -> None:
        self._ledger = ledger
        self._system = system
        self._log = log
        self._is_closing = False
        self.restarts: Counter[str] = Counter()  # by reason
        self.failure: str | None = None  # why no worker can be started, if none can
        self.has_usage_error = False
        self.slots = [
            Slot(number, placement)
            for number, placement in enumerate(place_workers(options.workers, options.device))
        ]
        # By number: also the workers that drain after they were replaced, and the replacements.
        self.children: dict[int, Child] = {}
        self.memory = MemoryWatch(options.memory_limit_mb, options.gpu_memory_limit_mb, system, log)
        self._announcer = Announcer(send_status)
        self._dispatcher = Dispatcher(self.children, ledger, options, system)
        self._streams = WorkerStreams(
            options=options,
            ledger=ledger,
            dispatcher=self._dispatcher,
            memory=self.memory,
            poller=poller,
            system=system,
            log=log,
            handle_ready=self._handle_ready,
            handle_signal=self._handle_signal,
        )
        self._spawner = Spawner(
            options=options,
            children=self.children,
            streams=self._streams,
            poller=poller,
            system=system,
            log=log,
            handle_exit=self._handle_exit,
            handle_usage_error=self._handle_usage_error,
        )
        self._succession = Succession(
            self.memory,
            system,
            log,
            request_spawn=self._spawner.request_spawn,
            settle=self._dispatcher.settle,
            count_restart=self._count_restart,
        )
        self._recycler = Recycler(
            self.slots, self.memory, options, log, replace=self._succession.replace
        )
        self._watchdog = Watchdog(options, log, kill_fork_server=self._spawner.kill_fork_server)

    # --- called by the loop -----------------------------------------------------------------

    def start(self) -> None:
        """Start a worker in each slot."""
        for slot in self.slots:
            self._fill(slot)

    @property
    def state(self) -> str:
        """The state of the fleet at this moment, for `health`."""
        if self.failure is not None:
            return "failed"
        if self.fault is not None:
            return "degraded"
        if not self._announcer.was_ready:
            return "loading"
        serving = all(slot.is_serving for slot in self.slots)
        broken = any(
            child.ready.get("detail") or child.is_unresponsive for child in self.children.values()
        )
        return "ok" if serving and not broken else "degraded"

    @property
    def fault(self) -> str | None:
        """Why no worker gets ready, for `health`; None if one does, or may still."""
        return self.failure or starvation(self.slots)

    @property
    def is_settled(self) -> bool:
        """True if every slot has its worker and no other worker is there."""
        serving = all(slot.is_serving for slot in self.slots)
        return serving and len(self.children) == len(self.slots)

    @property
    def has_read_options(self) -> bool:
        """True once the workers' options were found right, or no worker can be started."""
        return self._spawner.has_read_options or self.failure is not None

    @property
    def is_gone(self) -> bool:
        """True once every worker has exited after `stop`. A worker that has no pid yet does not
        count: it ends with the fork server."""
        return all(child.pid is None for child in self.children.values())

    def reload(self) -> None:
        """Replace every worker, one after the other; fill the slots that were given up."""
        self._recycler.reload()
        self.failure = None
        for slot in self.slots:
            if slot.is_given_up:
                slot.reset()

    def dispatch(self) -> None:
        """Give waiting jobs to the workers; if no worker can be started, end them instead."""
        if self.failure is None or self.has_usage_error:
            self._dispatcher.dispatch()
        else:
            self._dispatcher.fail_all(f"no worker can be started: {self.failure}")

    def end_job(self, job: Job, reason: str) -> bool:
        """Ask a job's worker to end it, for reason "cancel" or "deadline"; False if no worker has
        the job."""
        return self._dispatcher.end_job(job, reason)

    def flush(self) -> None:
        """Write what waits for the workers."""
        for child in self.children.values():
            if child.pipes.outbox.waiting_bytes:
                self._streams.flush(child)

    def extend_deadlines(self, seconds: float) -> None:
        """Extend all deadlines by the time in which this process was suspended."""
        for child in self.children.values():
            child.extend_deadlines(seconds)

    def tick(self, now: float) -> None:
        """Do everything that is due by now."""
        for child in list(self.children.values()):
            self._watchdog.check(child, now)
        if self._is_closing:
            return
        for slot in self.slots:
            if slot.child is None and not slot.is_given_up and now >= slot.respawn_at:
                self._fill(slot)
        self._recycler.continue_reload(now)

    def recycle_due(self, now: float) -> None:
        """Replace the workers that are too large, too old, or have done enough jobs."""
        if not self._is_closing:
            self._recycler.recycle_due(now)

    def reap(self) -> None:
        """Reap the processes below us that have exited."""
        self._spawner.reap()

    def stop(self) -> None:
        """Ask the workers to exit. Call it once no job is left."""
        self._close()
        for child in self.children.values():
            if child.state == "starting":
                child.end(Cause("reload"))  # it would finish loading first
            else:
                child.stop()

    def kill(self) -> None:
        """Kill every process below us and wait until all are gone."""
        self._close()
        for child in list(self.children.values()):
            child.kill()
            self._forget(child)
        self._spawner.end()

    def _close(self) -> None:
        self._is_closing = True
        self._spawner.close()

    # --- called by the collaborators --------------------------------------------------------

    def _handle_ready(self, child: Child, fields: dict[str, Any]) -> None:
        if child.state != "starting":
            self._handle_methods(child, fields)
            return
        slot = self.slots[child.slot]
        if not self._succession.can_take_over(slot, fields):
            child.end(Cause("load_failed", detail=fields.get("detail")))
            return
        slot.handle_ready()
        child.state = "ready"
        child.ready = fields
        child.lanes = fields["lanes"]
        self._spawner.confirm_pid(child, fields["pid"])
        self.memory.handle_ready(child)
        self._log.log("info", "worker_ready", worker=child.slot, worker_pid=child.pid)
        self._succession.take_over(slot, child)
        self._announcer.announce_ready(child)
        if slot.last_restart is not None:
            self._announcer.announce_restart(child, slot.last_restart)

    def _handle_methods(self, child: Child, fields: dict[str, Any]) -> None:
        """An engine that could not start has started later, or its files are there now."""
        before = child.ready
        child.ready, child.lanes = fields, fields["lanes"]
        if any(before.get(name) != fields.get(name) for name in ("detail", "methods")):
            self._announcer.announce_methods(child)

    def _handle_signal(self, child: Child, signal_name: str) -> None:
        """A worker received a signal from elsewhere: it finishes its jobs and takes no more."""
        cause = Cause("signal", signal=signal_name)
        if child.state == "starting":
            child.end(cause)
        elif child.state == "ready":
            child.state = "draining"
            self._succession.replace(self.slots[child.slot], child, cause)
            self._dispatcher.settle(child)

    def _handle_exit(self, child: Child, cause: Cause) -> None:
        """A worker has exited: requeue its jobs, and fill its slot again."""
        if child.pid is not None:
            self._system.kill_group(child.pid)  # the processes that it has left
        # Before its last lines are read: after one of them the worker could be given this job.
        self._dispatcher.requeue_reserved(child)
        self._streams.read_stdout(child)
        is_expected = child.state == "stopping" and not child.jobs
        was_starting = child.state == "starting"
        has_worked = child.jobs_done > 0
        self._forget(child)
        self._dispatcher.requeue_all(child, cause)
        slot = self.slots[child.slot]
        failed = slot.replacement if slot.replacement and slot.replacement.child is child else None
        promoted = slot.remove(child)
        if self._is_closing:
            return
        if failed is not None:
            self._succession.handle_failed_start(slot, failed, cause)
        elif not is_expected:
            self._log.log(
                "warning", "worker_gone", worker=slot.number, worker_pid=child.pid, **cause
            )
            self._plan_restart(slot, cause, was_starting=was_starting, has_worked=has_worked)
        elif promoted is not None:
            self._count_restart(slot, promoted.cause)

    def _handle_usage_error(self, text: str) -> None:
        self.has_usage_error = True
        self.failure = text
        self._spawner.close()

    def _fill(self, slot: Slot) -> None:
        """Start a slot's worker, or plan another try if the machine has no room for it."""
        try:
            slot.child = self._spawner.request_spawn(slot)
        except OSError as error:
            cause = Cause("load_failed", detail=str(error))
            self._log.log("warning", "worker_gone", worker=slot.number, **cause)
            self._plan_restart(slot, cause, was_starting=False, has_worked=False)

    def _plan_restart(
        self, slot: Slot, cause: Cause, *, was_starting: bool, has_worked: bool
    ) -> None:
        self._count_restart(slot, cause)
        slot.plan_restart(
            cause, self._system.now(), was_starting=was_starting, has_worked=has_worked
        )
        if all(one.is_given_up for one in self.slots):
            self.failure = cause.sentence()
        self._announcer.announce_exit(slot, cause)

    def _count_restart(self, slot: Slot, cause: Cause) -> None:
        slot.restarts += 1
        slot.last_restart = cause
        self.restarts[cause["reason"]] += 1

    def _forget(self, child: Child) -> None:
        self._streams.forget(child)
        child.close()
        del self.children[child.number]
        self.memory.forget(child)
