"""Replacing workers that still live: too large, too old, done with their share, or on request."""

from __future__ import annotations

import time
from collections.abc import Callable

from upscaled_protocol.log import Logger
from upscaled_supervisor.causes import Cause
from upscaled_supervisor.child import Child
from upscaled_supervisor.memory import MemoryWatch
from upscaled_supervisor.options import Options
from upscaled_supervisor.slots import Slot

# A replacement that could not start is not tried again for so long.
_PAUSE_S = 60.0


class Recycler:
    """Decides who is replaced. `replace` starts the successor beside the old worker, or drains
    the old one first where two do not fit; `slots` and `children` are kept by their owner."""

    def __init__(
        self,
        slots: list[Slot],
        children: dict[int, Child],
        memory: MemoryWatch,
        options: Options,
        log: Logger,
        *,
        replace: Callable[[Slot, Child, Cause], None],
    ) -> None:
        self._slots = slots
        self._children = children
        self._memory = memory
        self._options = options
        self._log = log
        self._replace = replace
        self._reloading: list[Child] = []

    def reload(self) -> None:
        """Replace every worker, one after the other."""
        self._reloading = [slot.child for slot in self._slots if slot.child is not None]

    def give_up(self, child: Child) -> None:
        """Its replacement could not start: it goes on, and costs nobody anything."""
        self._slots[child.slot].no_recycling_until = time.monotonic() + _PAUSE_S
        self._reloading = [one for one in self._reloading if one is not child]

    def continue_reload(self) -> None:
        """Turn to the next worker, once the last one has its successor."""
        if not self._reloading or any(child.replaces for child in self._children.values()):
            return
        child = self._reloading[0]
        slot = self._slots[child.slot]
        if child.state == "dead" or slot.child is not child:
            self._reloading.pop(0)
        elif child.state == "ready":
            self._recycle(slot, child, Cause("reload"))

    def recycle_due(self, now: float) -> None:
        """Replace workers that are too old, have done their jobs, or have grown too large."""
        for slot in self._slots:
            child = slot.child
            if child is None or child.state != "ready":
                continue
            child.ask_health()  # for the models that a successor is to have loaded
            cause = self._cause(child, now)
            if cause is not None and now >= slot.no_recycling_until:
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
        if any(other.replaces is child for other in self._children.values()):
            return
        self._log.log("info", "worker_recycled", worker=slot.number, **cause)
        self._replace(slot, child, cause)
