"""The pause between two tries of something that has failed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

# Far past any longest pause. After a thousand doublings the number is too large for a float.
_MOST_DOUBLINGS = 64


def backoff_s(failures: int, first_s: float, longest_s: float) -> float:
    """The pause after this many failures in a row: `first_s` after the first one, twice as long
    after each further one, at most `longest_s`."""
    return min(first_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), longest_s)


def pauses(first_s: float, longest_s: float) -> Iterator[float]:
    """The pauses after the first failure in a row, after the second, and so on, without end."""
    return (backoff_s(failures, first_s, longest_s) for failures in itertools.count(1))
