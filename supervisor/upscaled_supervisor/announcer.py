"""The status messages about the fleet: `ready`, `degraded`, `worker_restarted`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from upscaled_supervisor.causes import Cause
from upscaled_supervisor.child import Child
from upscaled_supervisor.slots import Slot


class Announcer:
    """Sends each status message only if it is news to the host."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self.was_ready = False
        self._is_degraded = False

    def announce_ready(self, child: Child) -> None:
        """A worker is ready: send it if it is the first one, or the first one after `degraded`."""
        if self.was_ready and not self._is_degraded:
            return
        self.was_ready, self._is_degraded = True, False
        if child.ready.get("detail"):
            self._send_status("degraded", worker=child.slot, detail=child.ready["detail"])
        self.announce_methods(child)

    def announce_methods(self, child: Child) -> None:
        """Send the methods that a worker serves."""
        self._send(child.ready | {"pid": os.getpid()})

    def announce_restart(self, child: Child, cause: Cause) -> None:
        """A slot has a new worker."""
        self._send_status("worker_restarted", worker=child.slot, pid=child.pid, cause=cause)

    def announce_exit(self, slot: Slot, cause: Cause) -> None:
        """A slot has no worker: send it if the slot may stay empty for long."""
        if slot.is_given_up:
            text = "given up"
        elif slot.is_failing and not self._is_degraded:
            self._is_degraded = True
            text = "workers keep exiting; each restart is delayed longer"
        else:
            return
        detail = f"{text}: {cause.sentence()}"
        self._send_status("degraded", worker=slot.number, cause=cause, detail=detail)

    def _send_status(self, message: str, **fields: Any) -> None:
        self._send({"type": "status", "message": message, **fields})
