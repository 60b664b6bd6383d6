"""How long a job still takes, from how it went so far."""

from __future__ import annotations

# Marks that are kept: enough to find one near any share of the job.
_KEPT = 128
# Percent below which there is no pace yet.
_LEAST = 1.0


class Pace:
    """Takes the times at which a job reached its percentages.

    The pace is that of the second half of what is done: a first tile, for which kernels are chosen
    and memory is taken, says little about the others, and a machine may become busier.
    Times are of one clock, in seconds.
    """

    def __init__(self, now: float) -> None:
        self._marks = [(now, 0.0)]

    def begin(self, now: float, percent: float) -> None:
        """Forget the time until now: it went into something else, loading or waiting."""
        self._marks = [(now, percent)]

    def reach(self, now: float, percent: float) -> None:
        """Take note of a percentage."""
        self._marks.append((now, percent))
        if len(self._marks) > _KEPT:
            del self._marks[1:-1:2]

    def seconds_left(self, tail_s: float = 0.0) -> float | None:
        """None before there is a pace. tail_s: what follows the last percent."""
        now, percent = self._marks[-1]
        first = self._marks[0][1]
        half = first + (percent - first) / 2
        since, before = next(mark for mark in reversed(self._marks) if mark[1] <= half)
        if percent < _LEAST or percent <= before:
            return None if percent < 100 else tail_s
        return (now - since) / (percent - before) * (100 - percent) + tail_s
