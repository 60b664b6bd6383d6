"""Make-before-break: a worker is replaced while it still works.

    the old worker works ── the new one starts beside it, with the same models loaded
      │  the new one is ready    ──> it takes over; the old one drains and exits
      │  the new one serves less ──> it is killed, which counts as an exit
      │  the new one exits       ──> started once more without the models, then given up
      └  the old one exits first ──> the new one is the slot's worker at once

If the machine has no memory for two, the old worker drains first and the new one starts then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from upscaled_protocol.log import Logger
from upscaled_supervisor.causes import Cause
from upscaled_supervisor.child import Child
from upscaled_supervisor.memory import MemoryWatch
from upscaled_supervisor.slots import Replacement, Slot
from upscaled_supervisor.system import System

# After a replacement that could not start, the next one is tried this much later.
_PAUSE_S = 60.0


class Succession:
    """Hands slots over from one worker to the next.

    `request_spawn` starts a worker that preloads these models; `settle` stops a draining worker
    that has no jobs; `count_restart` counts a restart of a slot.
    """

    def __init__(
        self,
        memory: MemoryWatch,
        system: System,
        log: Logger,
        *,
        request_spawn: Callable[[Slot, list[str]], Child],
        settle: Callable[[Child], None],
        count_restart: Callable[[Slot, Cause], None],
    ) -> None:
        self._memory = memory
        self._system = system
        self._log = log
        self._request_spawn = request_spawn
        self._settle = settle
        self._count_restart = count_restart

    def replace(self, slot: Slot, child: Child, cause: Cause) -> None:
        """Replace the worker of a slot, unless its replacement is already starting."""
        if slot.replacement is not None:
            return
        if self._memory.has_room_for_two(child):
            self._start(slot, cause, child.models_loaded)
        else:
            self._count_restart(slot, cause)
            self._drain(child)

    def _start(self, slot: Slot, cause: Cause, models: list[str]) -> None:
        try:
            child = self._request_spawn(slot, models)
        except OSError as error:
            self._give_up(slot, Cause("load_failed", detail=str(error)))
        else:
            slot.replacement = Replacement(child, cause, models)

    def can_take_over(self, slot: Slot, ready: dict[str, Any]) -> bool:
        """False if a replacement serves less than the old worker, so that the old one stays.

        A method that lacks its files may be absent, because the old worker lacks them now too.
        """
        if slot.replacement is None or slot.child is None:
            return True
        explained = {*ready["methods"], *(ready.get("unavailable") or ())}
        return explained.issuperset(slot.child.ready["methods"])

    def take_over(self, slot: Slot, child: Child) -> None:
        """Make a worker that is ready the slot's worker. The old one drains."""
        replacement, old = slot.replacement, slot.child
        slot.child, slot.replacement = child, None
        if replacement is not None:
            self._count_restart(slot, replacement.cause)
        if old is not None and old is not child:
            self._drain(old)

    def handle_failed_start(self, slot: Slot, failed: Replacement, cause: Cause) -> None:
        """A replacement has exited before it was ready: the old worker stays."""
        if failed.models:  # perhaps one of these models is the reason
            self._start(slot, failed.cause, models=[])
        else:
            self._give_up(slot, cause)

    def _give_up(self, slot: Slot, cause: Cause) -> None:
        slot.no_recycling_until = self._system.now() + _PAUSE_S
        self._log.log("warning", "replacement_failed", worker=slot.number, **cause)

    def _drain(self, child: Child) -> None:
        child.state = "draining"
        self._settle(child)
