"""Estimates the time that a job still takes."""

from __future__ import annotations

# Marks that are kept: enough to find one near any share of the job.
_KEPT = 128
# Below this many percent there is no estimate.
_LEAST = 1.0


class Pace:
    """Takes the times at which a job reached its percentages, in seconds of one clock.

    Only the second half of the progress so far counts. The first tile says little about the others,
    because kernels are chosen and memory is taken for it; and a machine may become busier.
    """

    def __init__(self, now: float) -> None:
        self._marks = [(now, 0.0)]

    def begin(self, now: float, percent: float) -> None:
        """Forget the time until now, because the job was loading or waiting."""
        self._marks = [(now, percent)]

    def reach(self, now: float, percent: float) -> None:
        """Record that the job has reached a percentage."""
        self._marks.append((now, percent))
        if len(self._marks) > _KEPT:
            del self._marks[1:-1:2]

    def seconds_left(self, tail_s: float = 0.0) -> float | None:
        """The estimate; None if it is too early. tail_s: the time of the work after 100 percent."""
        now, percent = self._marks[-1]
        first = self._marks[0][1]
        half = first + (percent - first) / 2
        since, before = next(mark for mark in reversed(self._marks) if mark[1] <= half)
        if percent < _LEAST or percent <= before:
            return None if percent < 100 else tail_s
        return (now - since) / (percent - before) * (100 - percent) + tail_s
