"""Places in the fleet, and how soon a place is filled again after a death."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from upscaled_supervisor.causes import Cause
from upscaled_supervisor.child import Child
from upscaled_supervisor.devices import Placement

# A worker that dies without having done a job waits twice as long each time, up to the limit.
_BACKOFF_BASE_S = 0.2
_BACKOFF_LIMIT_S = 30.0
# From so many such deaths on the machine, or every job, must be at fault.
_FAILING_AFTER = 3
# A worker that leaves by itself before it is ready will leave again: after so many we stop.
_HOPELESS_AFTER = 3
# A machine may have room again later, also if its limits killed the workers while they started.
# Once the host sends nothing more, nothing waits for that.
_STARVED_AFTER = 4


@dataclass
class Slot:
    """One worker's place: who fills it, and what is remembered of those who did."""

    number: int
    placement: Placement
    child: Child | None = None
    failures: int = 0  # deaths in a row without a job done
    load_failures: int = 0  # departures in a row before being ready
    respawn_at: float = 0.0
    restarts: int = 0
    last_restart: Cause | None = None
    start_failure: Cause | None = None  # why its last worker was gone before it was ready
    no_recycling_until: float = 0.0

    @property
    def is_failing(self) -> bool:
        """Whether its workers die so often that the host should know."""
        return self.failures >= _FAILING_AFTER

    @property
    def is_hopeless(self) -> bool:
        """Whether trying again is in vain: a model or a setting is wrong."""
        return self.load_failures >= _HOPELESS_AFTER

    @property
    def is_serving(self) -> bool:
        """Whether its worker takes jobs."""
        return self.child is not None and self.child.state == "ready"

    def plan_restart(self, cause: Cause, *, died_loading: bool, has_worked: bool) -> None:
        """After a death that nobody meant: when to fill the slot again.

        The first time at once, for most deaths are one job's, or an accident.
        """
        if died_loading and cause["reason"] == "exit":
            self.load_failures += 1
        never_ready = died_loading or cause["reason"] == "load_failed"
        self.start_failure = cause if never_ready else None
        self.failures = 0 if has_worked else self.failures + 1
        delay_s = _BACKOFF_BASE_S * 2 ** (self.failures - 2) if self.failures > 1 else 0.0
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - so that a fleet does not restart in step
        self.respawn_at = time.monotonic() + min(delay_s, _BACKOFF_LIMIT_S) * jitter

    def start_over(self) -> None:
        """Forget the failures: somebody has mended what was wrong."""
        self.failures = self.load_failures = 0
        self.respawn_at = 0.0


def starvation(slots: Sequence[Slot]) -> str | None:
    """Why no worker gets ready on this machine; None if one does, or was not tried often enough."""
    causes = [slot.start_failure for slot in slots if slot.failures >= _STARVED_AFTER]
    found = [cause for cause in causes if cause is not None]
    return found[0].sentence() if found and len(found) == len(slots) else None
