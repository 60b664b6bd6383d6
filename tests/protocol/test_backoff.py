"""The pause before the next try."""

from __future__ import annotations

import itertools

import pytest

from upscaled_protocol.backoff import backoff_s, pauses


@pytest.mark.parametrize(
    ("failures", "pause_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 3.0), (100_000, 3.0)]
)
def test_each_failure_doubles_the_pause_up_to_the_longest_one(
    failures: int, pause_s: float
) -> None:
    assert backoff_s(failures, first_s=0.5, longest_s=3.0) == pause_s


def test_the_pauses_of_a_loop_are_those_of_its_failures() -> None:
    assert list(itertools.islice(pauses(first_s=0.5, longest_s=3.0), 5)) == [0.5, 1, 2, 3, 3]
