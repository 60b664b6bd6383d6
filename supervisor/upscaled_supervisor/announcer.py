"""What the host is told of the fleet: `ready`, `degraded`, `worker_restarted`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from upscaled_supervisor.causes import Cause
from upscaled_supervisor.child import Child
from upscaled_supervisor.slots import Slot


class Announcer:
    """Writes the status messages, each only if it says something new. `tell_host` sends one."""

    def __init__(self, tell_host: Callable[[dict[str, Any]], None]) -> None:
        self._tell_host = tell_host
        self.was_ready = False
        self.is_degraded = False

    def tell_ready(self, child: Child) -> None:
        """A worker is ready. The host hears of the first, and of the next one after `degraded`."""
        if self.was_ready and not self.is_degraded:
            return
        self.was_ready, self.is_degraded = True, False
        if child.ready.get("detail"):
            self._tell("degraded", worker=child.slot, detail=child.ready["detail"])
        self.tell_ready_again(child)

    def tell_ready_again(self, child: Child) -> None:
        """A worker serves other methods than before."""
        self._tell_host(child.ready | {"pid": os.getpid()})

    def tell_restarted(self, child: Child, cause: Cause) -> None:
        """A place in the fleet has a new worker."""
        self._tell("worker_restarted", worker=child.slot, pid=child.pid, cause=cause)

    def tell_lost(self, slot: Slot, cause: Cause) -> None:
        """A place in the fleet has no worker. The host hears of it if it may not get one soon."""
        if slot.is_hopeless:
            text = "given up"
        elif slot.is_failing and not self.is_degraded:
            self.is_degraded = True
            text = "workers keep dying, and are tried again ever more slowly"
        else:
            return
        detail = f"{text}: {cause.sentence()}"
        self._tell("degraded", worker=slot.number, cause=cause, detail=detail)

    def _tell(self, message: str, **fields: Any) -> None:
        self._tell_host({"type": "status", "message": message, **fields})
