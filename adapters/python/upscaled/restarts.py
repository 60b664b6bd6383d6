"""Decides if and when the next daemon is started after one has ended."""

from __future__ import annotations

from typing import Any

from upscaled.call import Call
from upscaled.errors import DaemonGoneError
from upscaled_protocol.backoff import backoff_s

_MAX_DELAY_S = 10.0

# The daemon's exit status for wrong options. It finds some only after its first line.
USAGE_STATUS = 2


class Restarts:
    """attempts: starts in a row that may fail, and daemons that may end without accepting a job.
    delay_s: doubled with each start that fails."""

    def __init__(self, attempts: int, delay_s: float) -> None:
        self._attempts = attempts
        self._delay_s = delay_s
        self._failed_starts = 0
        self._is_ready = False
        self._was_ready = False

    def handle_start(self) -> None:
        """A daemon is being started."""
        self._is_ready = False

    def handle_ready(self) -> None:
        """It is ready."""
        self._is_ready = self._was_ready = True
        self._failed_starts = 0

    def delay_after(self, error: DaemonGoneError) -> float | None:
        """Seconds from this end to the next start; None if there is none."""
        self._failed_starts += not self._is_ready
        if self._failed_starts >= self._attempts or self._is_hopeless(error):
            return None
        return backoff_s(self._failed_starts + 1, self._delay_s, _MAX_DELAY_S)

    def may_lose(self, call: Call[Any]) -> bool:
        """Count a daemon that ended without accepting this job; False if it was the last try."""
        call.losses += 1
        return call.losses < self._attempts

    def _is_hopeless(self, error: DaemonGoneError) -> bool:
        """True if a new start would fail in the same way. A daemon that was ready once may work
        again, for example after a deployment."""
        if self._was_ready:
            return False
        is_missing = isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)
        return is_missing or error.status == USAGE_STATUS
