"""Measuring within a given time: how much of it is left, and what is kept of the results."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from upscaled_bench.pipes import seconds


class TimeBudget:
    """Seconds that may be spent, from now on."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Seconds that are left; below 0 after the end."""
        return self._end - time.monotonic()

    def part(self, seconds: float) -> TimeBudget:
        """A budget of its own for a part of the work. It does not end later than this one."""
        return TimeBudget(min(seconds, self.left_s))


class Times(NamedTuple):
    """What some runs took, in seconds. first_s: of the run before, which also loads."""

    least_s: float
    median_s: float
    first_s: float
    rounds: int

    def as_dict(self) -> dict[str, float]:
        """For a report."""
        return self._asdict()


def measured(
    run: Callable[[], object],
    budget: TimeBudget,
    *,
    rounds: int = 5,
    limit_s: float = float("inf"),
) -> Times:
    """Run it once to warm up, and then up to `rounds` times, as long as the next run fits. If none
    fits, the first run is the result.

    limit_s: for all runs after the first, which may have to load something.
    """
    last = first = seconds(run)
    taken: list[float] = []
    while len(taken) < rounds and last < budget.left_s and sum(taken) < limit_s:
        last = seconds(run)
        taken.append(last)
    shown = taken or [first]
    return Times(min(shown), statistics.median(shown), first, len(taken))


class Report:
    """Results by part, in a JSON file that is written again after each of them.

    path: None to keep them in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept: dict[str, Any] = {}

    def keep(self, part: str, result: object) -> None:
        """Set the result of a part."""
        self._kept[part] = result
        self._write()

    def add(self, part: str, result: object) -> None:
        """Append one of several results of a part."""
        self._kept.setdefault(part, []).append(result)
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
            self._path.write_bytes(orjson.dumps(self._kept, default=str, option=options))
