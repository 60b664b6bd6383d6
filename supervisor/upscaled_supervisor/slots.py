"""Slots: the places of the fleet, one worker each, and the delay before a slot is filled again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from upscaled_protocol.backoff import backoff_s
from upscaled_supervisor.causes import Cause
from upscaled_supervisor.child import Child
from upscaled_supervisor.devices import Placement

# If workers exit without having done a job, each delay is twice the one before, up to the limit.
_BACKOFF_BASE_S = 0.2
_BACKOFF_LIMIT_S = 30.0
# After this many such exits the machine is at fault, or every job is.
_FAILING_AFTER = 3
# A worker that exits by itself before it is ready will exit again: stop after this many.
_GIVEN_UP_AFTER = 3
# A machine may have room again later, even if its limits killed the workers while they started.
# Once the host sends no more lines, nothing waits for that.
_STARVED_AFTER = 4


@dataclass
class Replacement:
    """A worker that starts while the worker that it replaces still works."""

    child: Child
    cause: Cause  # why the old worker is replaced
    models: list[str] = field(default_factory=list)  # it preloads what the old worker had loaded


@dataclass
class Slot:
    """The place of one worker: its worker, the replacement, and how the last ones ended."""

    number: int
    placement: Placement
    child: Child | None = None
    replacement: Replacement | None = None
    failures: int = 0  # exits in a row without a job done
    load_failures: int = 0  # exits in a row before the worker was ready
    respawn_at: float = 0.0
    restarts: int = 0
    last_restart: Cause | None = None
    start_failure: Cause | None = None  # why its last worker exited before it was ready
    no_recycling_until: float = 0.0

    @property
    def is_failing(self) -> bool:
        """True if its workers exit so often that the host should know."""
        return self.failures >= _FAILING_AFTER

    @property
    def is_given_up(self) -> bool:
        """True if it is not filled again, because a model or a setting is wrong."""
        return self.load_failures >= _GIVEN_UP_AFTER

    @property
    def is_serving(self) -> bool:
        """True if its worker takes jobs."""
        return self.child is not None and self.child.state == "ready"

    def remove(self, child: Child) -> Replacement | None:
        """Forget a worker that has exited. If its replacement is still starting, that becomes the
        slot's worker and is returned."""
        replacement = self.replacement
        if replacement is not None and replacement.child is child:
            self.replacement = None
        elif self.child is child:
            self.child = replacement.child if replacement else None
            self.replacement = None
            return replacement
        return None

    def handle_ready(self) -> None:
        """A worker has got ready: nothing on this machine prevents that."""
        self.load_failures = 0
        self.start_failure = None

    def plan_restart(
        self, cause: Cause, now: float, *, was_starting: bool, has_worked: bool
    ) -> None:
        """After an unexpected exit: set the time to fill the slot again.

        The first restart has no delay, because most exits are an accident or one job's doing.
        """
        if was_starting and cause["reason"] == "exit":
            self.load_failures += 1
        never_ready = was_starting or cause["reason"] == "load_failed"
        self.start_failure = cause if never_ready else None
        self.failures = 0 if has_worked else self.failures + 1
        delay_s = 0.0
        if self.failures > 1:
            delay_s = backoff_s(self.failures - 1, _BACKOFF_BASE_S, _BACKOFF_LIMIT_S)
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - so that a fleet does not restart in step
        self.respawn_at = now + delay_s * jitter

    def reset(self) -> None:
        """Forget the failures, because the user says that the fault is mended."""
        self.failures = self.load_failures = 0
        self.respawn_at = 0.0


def starvation(slots: Sequence[Slot]) -> str | None:
    """Why no worker gets ready on this machine; None if one does, or was not tried often enough."""
    causes = [slot.start_failure for slot in slots if slot.failures >= _STARVED_AFTER]
    found = [cause for cause in causes if cause is not None]
    return found[0].sentence() if found and len(found) == len(slots) else None
