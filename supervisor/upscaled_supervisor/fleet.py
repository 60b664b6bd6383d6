"""The workers: started, given jobs, watched, replaced, ended.

A *slot* is a place in the fleet (and its device); a *child* is the process that fills it for now.
While a child is recycled its slot has two: the old one works until the new one is ready.
"""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from upscaled_protocol.errors import ErrorCode
from upscaled_protocol.lineage import child_pids, kill_descendants, kill_group
from upscaled_protocol.log import Logger
from upscaled_supervisor.announcer import Announcer
from upscaled_supervisor.causes import Cause, cause_of_exit, cause_of_fork_server_exit
from upscaled_supervisor.child import LEAVE_TIMEOUT_S, Child, open_pipes
from upscaled_supervisor.devices import Placement
from upscaled_supervisor.dispatch import Dispatcher
from upscaled_supervisor.forkserver import ForkServer
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.memory import MemoryWatch
from upscaled_supervisor.options import Options
from upscaled_supervisor.poller import Poller
from upscaled_supervisor.queue import Job
from upscaled_supervisor.recycling import Recycler
from upscaled_supervisor.slots import Slot
from upscaled_supervisor.watchdog import Watchdog
from upscaled_supervisor.workerline import read_message

# So much of a line that is no message is told.
_QUOTED_BYTES = 80


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
        self._announcer = Announcer(tell_host)
        self._next_number = 0
        self._closing = False
        # A shell that started us by `exec` leaves us its own children, such as the `tee` that
        # reads our stdout: not ours to end.
        self._inherited_pids = child_pids(os.getpid())
        self.fork_server: ForkServer | None = None
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
        self._watchdog = Watchdog(options, log, end_fork_server=self._end_fork_server)
        self.restarts: Counter[str] = Counter()  # by reason
        self.failure: str | None = None  # why no worker can be had, where that is so
        self.has_usage_error = False

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a worker in each slot, and with the first one the fork server."""
        for slot in self.slots:
            self._spawn(slot)

    @property
    def state(self) -> str:
        """For `health`: what is true right now."""
        if self.failure is not None:
            return "failed"
        if not self._announcer.was_ready:
            return "loading"
        serving = all(slot.is_serving for slot in self.slots)
        broken = any(
            child.ready.get("detail") or child.is_unresponsive for child in self.children.values()
        )
        return "ok" if serving and not broken else "degraded"

    @property
    def is_settled(self) -> bool:
        """Whether every worker idles, so that nothing can fall due soon."""
        serving = all(slot.is_serving for slot in self.slots)
        return serving and len(self.children) == len(self.slots)

    def reload(self) -> None:
        """Replace every worker, one after the other; try again where we had given up."""
        self._recycler.reload()
        self.failure = None
        for slot in self.slots:
            if slot.is_hopeless:
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
        """Whether `stop` has done its work. Who has no pid yet ends with the fork server."""
        return all(child.pid is None for child in self.children.values())

    def kill(self) -> None:
        """End everything at once, down to the last grandchild, and wait until that is so."""
        self._closing = True
        for child in list(self.children.values()):
            child.kill()
            self._forget(child)
        if self.fork_server is not None:
            # It kills what the groups' signals missed; and we, what was handed up to us.
            self._poller.forget(self.fork_server.fd)
            self.fork_server.close()
            self.fork_server.wait()
            self.fork_server = None
            kill_descendants(spared=self._inherited_pids)

    def dispatch(self) -> None:
        """Hand out waiting jobs; where no worker can be had, answer them with the reason."""
        if self.failure is None or self.has_usage_error:
            self._dispatcher.dispatch()
        else:
            self._dispatcher.fail_all(f"no worker can be started: {self.failure}")

    def end_job(self, job: Job, reason: str) -> bool:
        """Have the worker stop a job, for reason "cancel" or "deadline"; False where it waits."""
        return self._dispatcher.end_job(job, reason)

    def flush(self) -> None:
        """Write what waits for the workers."""
        for child in self.children.values():
            if child.outbox.waiting_bytes:
                self._flush_child(child)

    def _flush_child(self, child: Child) -> None:
        child.flush()
        self._poller.watch_writing(child.outbox, lambda: self._flush_child(child))

    def forgive(self, seconds: float) -> None:
        """Hold nobody's silence against him: for so long we did not run ourselves."""
        for child in self.children.values():
            child.forgive(seconds)

    # --- what workers say -------------------------------------------------------------------

    def _read_stdout(self, child: Child) -> None:
        lines, ended = child.read_stdout()
        for line in lines:
            self._handle_line(child, line)
        if ended:
            self._poller.forget(child.stdout_fd)
            if child.state == "ready":
                child.state = "draining"  # dead, most likely: it is to get no more jobs
            if child.kill_at is None:
                child.expect_death(LEAVE_TIMEOUT_S)

    def _read_stderr(self, child: Child) -> None:
        lines, ended = child.read_stderr()
        for line in lines:
            self._log.write(line + b"\n")
        if ended:
            self._poller.forget(child.stderr_fd)

    def _handle_line(self, child: Child, line: bytes) -> None:
        try:
            fields = read_message(line)
            if fields is not None:
                self._handle_message(child, fields, line)
                return
            detail = None
        except Exception:  # noqa: BLE001 - whatever it says, the other workers go on
            detail = traceback.format_exc()
        # It may have been the end of a job: nothing that this worker does can be relied on.
        self._log.log("error", "worker_line_unreadable", worker=child.slot, traceback=detail)
        child.end_for_violation(f"it wrote {line[:_QUOTED_BYTES]!r}")

    def _handle_message(self, child: Child, fields: dict[str, Any], line: bytes) -> None:
        kind = fields["type"]
        if kind == "status":
            self._handle_status(child, fields)
        elif kind == "health":
            child.note_health(fields)
        elif (job := child.jobs.get(fields["job_id"])) is None:
            self._log.log("warning", "worker_line_unexpected", worker=child.slot, line=kind)
        elif kind == "progress":
            job.note_progress(fields, self._options.stall_timeout_s)
            self._ledger.progress(job, line, fields)
        else:
            self._handle_terminal(child, job, fields, line)

    def _handle_terminal(self, child: Child, job: Job, fields: dict[str, Any], line: bytes) -> None:
        outcome = fields["code"] if fields["type"] == "error" else "completed"
        if outcome == ErrorCode.SHUTTING_DOWN and child.state != "ready":
            self._take_back(child, job)
            return
        if job.ending == "deadline" and outcome == ErrorCode.CANCELLED:
            self._ledger.fail_deadline(job)
        else:
            self._ledger.finish(job, line, outcome)
        child.take_back(job)
        child.jobs_done += 1
        self.slots[child.slot].failures = 0
        if outcome == "completed":
            self.memory.note_job(child, job.model)
        else:
            child.models.discard(job.model)  # there may be no such model
        self._settle(child)

    def _handle_status(self, child: Child, fields: dict[str, Any]) -> None:
        if fields["message"] == "draining" and fields.get("detail"):
            self._let_leave(child, fields["detail"])
        elif fields["message"] == "stopped" and child.state == "draining":
            for job in list(child.jobs.values()):  # unread: all that it took has ended
                self._take_back(child, job)
        if fields["message"] != "ready" or child.end_cause is not None:
            return
        if child.state != "starting":
            self._note_ready_again(child, fields)
            return
        slot = self.slots[child.slot]
        old = child.replaces
        # What lacks its files now lacks them in the old worker too.
        explained = {*fields["methods"], *(fields.get("unavailable") or ())}
        if old is not None and not set(old.ready["methods"]) <= explained:
            # Something has changed for the worse meanwhile. What works goes on.
            child.end(Cause("load_failed", detail=fields.get("detail")))
            return
        slot.load_failures = 0
        slot.child = child
        child.state = "ready"
        child.ready = fields
        child.lanes = fields["lanes"]
        if (
            child.pid is None
            and self.fork_server
            and fields["pid"] in child_pids(self.fork_server.pid)
        ):
            child.pid = fields["pid"]  # its parent is slower to tell
        self.memory.note_ready(child)
        self._log.log("info", "worker_ready", worker=child.slot, worker_pid=child.pid)
        if child.replaces_for is not None:
            self._note_restart(slot, child.replaces_for)
            child.replaces_for = None
        if old is not None:
            child.replaces = None
            old.state = "draining"
            self._settle(old)
        self._announcer.tell_ready(child)
        if slot.last_restart is not None:
            self._announcer.tell_restarted(child, slot.last_restart)

    def _note_ready_again(self, child: Child, fields: dict[str, Any]) -> None:
        """An engine that could not start has started later, or what it lacked is there."""
        before = child.ready
        child.ready, child.lanes = fields, fields["lanes"]
        if any(before.get(name) != fields.get(name) for name in ("detail", "methods")):
            self._announcer.tell_ready_again(child)

    def _let_leave(self, child: Child, signal_name: str) -> None:
        """Somebody has sent a worker a signal: it finishes what it has, and takes no more."""
        cause = Cause("signal", signal=signal_name)
        if child.state == "starting":
            child.end(cause)
        elif child.state == "ready":
            child.state = "draining"
            if self._successor(child) is None:
                self._replace(self.slots[child.slot], child, cause)
            self._settle(child)

    def _take_back(self, child: Child, job: Job) -> None:
        """A job that came too late for a worker on its way out: it never started."""
        child.take_back(job)
        self._ledger.take_back(job, None)
        self._settle(child)

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

    def _start_fork_server(self) -> None:
        self.fork_server = ForkServer(self._options.worker_argv, template=self._options.template)
        self._poller.watch_reading(self.fork_server.fd, self._read_fork_server)

    def _spawn(self, slot: Slot) -> None:
        """Fill a slot, or try again later where the machine does not let us."""
        try:
            slot.child = self._bear(slot)
        except OSError as error:
            self._lose(slot, Cause("load_failed", detail=str(error)))

    def _spawn_successor(self, slot: Slot, old: Child, cause: Cause, preload: list[str]) -> None:
        """Start a worker that takes over from another, once it has these models loaded."""
        try:
            child = self._bear(slot, preload)
        except OSError as error:
            self._give_up_replacing(slot, old, Cause("load_failed", detail=str(error)))
            return
        child.replaces, child.replaces_for, child.inherited = old, cause, preload

    def _bear(self, slot: Slot, preload: Sequence[str] = ()) -> Child:
        """Ask for a process. Raises `OSError` where the machine has no room for it."""
        if self.fork_server is None:
            self._start_fork_server()
        assert self.fork_server is not None
        theirs, ours = open_pipes()
        child = Child(self._next_number, slot.number, slot.placement, ours)
        self._next_number += 1
        self.children[child.number] = child
        self._poller.watch_reading(child.stdout_fd, lambda: self._read_stdout(child))
        self._poller.watch_reading(child.stderr_fd, lambda: self._read_stderr(child))
        argv = ["--supervised", *slot.placement.argv, *(f"--preload={name}" for name in preload)]
        try:
            self.fork_server.spawn(child.number, argv, slot.placement.env, theirs)
        except BlockingIOError:  # it has been asked for so many already
            self._forget(child)
            raise
        except OSError:
            pass  # the fork server is gone, which its own end of the socket tells in a moment
        finally:
            for fd in theirs:
                os.close(fd)
        return child

    def _read_fork_server(self) -> None:
        assert self.fork_server is not None
        try:
            notices = self.fork_server.read()
        except ValueError as error:
            self._log.log("error", "fork_server_line_unreadable", detail=str(error))
            return self._end_fork_server()
        if notices is None:
            return self._lose_fork_server()
        for notice in notices:
            if "spawn" in notice and notice["spawn"] in self.children:
                child = self.children[notice["spawn"]]
                child.pid = notice.get("pid")
                if child.pid is None:
                    self._bury(child, Cause("load_failed", detail=notice["failed"]))
                elif child.end_cause is not None:
                    child.kill()
            elif "exited" in notice:
                self._bury_pid(notice["exited"], notice["status"])
            elif "usage" in notice:
                self.has_usage_error = True
                self.failure = "the workers' options are wrong; stderr says how"
            elif notice.get("template") is False and self._options.template:
                self._log.log("warning", "template_unusable", detail=notice.get("detail"))
        return None

    def _lose_fork_server(self) -> None:
        """It was killed, and the kernel killed its workers with it; or it refused the options."""
        assert self.fork_server is not None
        self._poller.forget(self.fork_server.fd)
        self.fork_server.close()
        exit_code = self.fork_server.wait()
        # What it would have ended was handed up to us.
        kill_descendants(spared=self._inherited_pids)
        self.fork_server = None
        if not self._closing and not self.has_usage_error:
            self._log.log("error", "fork_server_lost", exit_code=exit_code)
        cause = cause_of_fork_server_exit(exit_code)
        for child in list(self.children.values()):
            child.kill()
            child.end_cause = child.end_cause or cause
            self._bury(child, child.end_cause)

    def _bury_pid(self, pid: int, status: int) -> None:
        for child in list(self.children.values()):
            if child.pid == pid:
                self._read_stderr(child)
                last_words = None if child.ready else child.last_line()
                self._bury(
                    child, child.end_cause or cause_of_exit(status, child.oom_kills, last_words)
                )

    def _bury(self, child: Child, cause: Cause) -> None:
        """A worker is dead: give its jobs back, and its slot a successor."""
        if child.pid is not None:
            kill_group(child.pid)  # what is left of it
        if child.reserved_for is not None:  # before its last words can have it handed over
            self._ledger.retry(child.reserved_for)
            child.reserved_for = None
        self._read_stdout(child)
        is_expected = child.state == "stopping" and not child.jobs
        died_loading = child.state == "starting"
        slot = self.slots[child.slot]
        self._forget(child)
        for job in child.jobs.values():
            # Where we ended the worker, that was for the sake of some, and not of the others.
            blamed = child.end_cause is None or job in child.culprits
            self._ledger.take_back(job, cause if blamed else None)
        child.jobs.clear()
        if child.replaces is not None:
            assert child.replaces_for is not None
            if child.inherited and not self._closing:  # perhaps it was one of those models
                self._spawn_successor(slot, child.replaces, child.replaces_for, preload=[])
            else:
                self._give_up_replacing(slot, child.replaces, cause)
            return
        if slot.child is child:
            slot.child = self._successor(child)
            if slot.child is not None:
                slot.child.replaces = None
                if not is_expected:
                    slot.child.replaces_for = None
        if is_expected or self._closing:
            return
        self._lose(slot, cause, child, died_loading=died_loading)

    def _successor(self, child: Child) -> Child | None:
        """Who is being started to take over from it."""
        return next((one for one in self.children.values() if one.replaces is child), None)

    def _give_up_replacing(self, slot: Slot, old: Child, cause: Cause) -> None:
        self._recycler.give_up(old)
        self._log.log("warning", "replacement_failed", worker=slot.number, **cause)

    def _forget(self, child: Child) -> None:
        for fd in (child.stdout_fd, child.stderr_fd, child.outbox.fd):
            self._poller.forget(fd)
        child.close()
        del self.children[child.number]
        self.memory.forget(child)

    def _lose(
        self, slot: Slot, cause: Cause, child: Child | None = None, *, died_loading: bool = False
    ) -> None:
        """A slot lost its worker, or could not get one: tell, and plan when to try again."""
        self._note_restart(slot, cause)
        pid = child.pid if child else None
        self._log.log("warning", "worker_gone", worker=slot.number, worker_pid=pid, **cause)
        has_worked = child is not None and child.jobs_done > 0
        slot.plan_restart(cause, died_loading=died_loading, has_worked=has_worked)
        if all(one.is_hopeless for one in self.slots):
            self.failure = cause.sentence()
        self._announcer.tell_lost(slot, cause)

    # --- the clock --------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Everything that falls due by time alone."""
        for child in list(self.children.values()):
            self._watchdog.check(child, now)
        if self._closing:
            return
        for slot in self.slots:
            if slot.child is None and not slot.is_hopeless and now >= slot.respawn_at:
                self._spawn(slot)
        self._recycler.continue_reload()

    def recycle_due(self, now: float) -> None:
        """Replace workers that are too old, have done their jobs, or have grown too large."""
        if not self._closing:
            self._recycler.recycle_due(now)

    def _end_fork_server(self) -> None:
        """It does not tell of the dead, so it is as good as dead itself."""
        if self.fork_server is not None:
            self._log.log("error", "fork_server_stuck")
            kill_group(self.fork_server.pid)

    def _note_restart(self, slot: Slot, cause: Cause) -> None:
        slot.restarts += 1
        slot.last_restart = cause
        self.restarts[cause["reason"]] += 1

    def _replace(self, slot: Slot, child: Child, cause: Cause) -> None:
        """Make before break: the old worker goes on until the new one is ready."""
        if self.memory.has_room_for_two(child):
            self._spawn_successor(slot, child, cause, child.models_loaded)
        else:
            # Two do not fit: the old one finishes its jobs and goes, then the new one comes.
            self._note_restart(slot, cause)
            child.state = "draining"
            self._settle(child)
