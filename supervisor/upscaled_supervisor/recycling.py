"""Which workers are replaced while they still work: too large, too old, too many jobs, or a reload.

A *reload* replaces every worker, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable

from upscaled_protocol.log import Logger
from upscaled_supervisor.causes import Cause
from upscaled_supervisor.child import Child
from upscaled_supervisor.memory import MemoryWatch
from upscaled_supervisor.options import Options
from upscaled_supervisor.slots import Slot


class Recycler:
    """Decides who is replaced. `replace` does it; the owner of `slots` changes them."""

    def __init__(
        self,
        slots: list[Slot],
        memory: MemoryWatch,
        options: Options,
        log: Logger,
        *,
        replace: Callable[[Slot, Child, Cause], None],
    ) -> None:
        self._slots = slots
        self._memory = memory
        self._options = options
        self._log = log
        self._replace = replace
        self._reloading: list[Child] = []

    def reload(self) -> None:
        """Begin to replace every worker, one after the other."""
        self._reloading = [slot.child for slot in self._slots if slot.child is not None]
        for slot in self._slots:
            slot.no_recycling_until = 0.0

    def continue_reload(self, now: float) -> None:
        """Replace the next worker of a reload, if no replacement is starting."""
        if not self._reloading or any(slot.replacement for slot in self._slots):
            return
        child = self._reloading[0]
        slot = self._slots[child.slot]
        if slot.child is not child or now < slot.no_recycling_until:
            self._reloading.pop(0)  # it was replaced, or cannot be
        elif child.state == "ready":
            self._recycle(slot, child, Cause("reload"))

    def recycle_due(self, now: float) -> None:
        """Replace the workers that are too large, too old, or have done enough jobs."""
        for slot in self._slots:
            child = slot.child
            if child is None or child.state != "ready":
                continue
            child.ask_health()  # a replacement preloads the models of this report
            cause = self._cause(child, now)
            if cause is not None and slot.replacement is None and now >= slot.no_recycling_until:
                self._recycle(slot, child, cause)

    def _cause(self, child: Child, now: float) -> Cause | None:
        action = self._memory.judge(child)
        if action == "trim":
            child.ask_trim()
            self._log.log("info", "worker_trimmed", worker=child.slot)
        if action == "recycle":
            return Cause("memory")
        if self._options.max_jobs and child.jobs_done >= self._options.max_jobs:
            return Cause("job_count")
        if self._options.max_age_s and now - child.spawned_at > self._options.max_age_s:
            return Cause("age")
        return None

    def _recycle(self, slot: Slot, child: Child, cause: Cause) -> None:
        self._log.log("info", "worker_recycled", worker=slot.number, **cause)
        self._replace(slot, child, cause)
