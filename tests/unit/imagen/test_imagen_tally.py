"""What a job reports while its calls run, and how often."""

from __future__ import annotations

import time

import pytest

from recording import RecordingContext
from upscaled_models.registry import is_installed

pytestmark = pytest.mark.skipif(
    not is_installed("imagen"), reason="needs pip install 'upscaled[imagen]'"
)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_a_call_under_way_stays_on_the_stall_clock_and_gives_signs_of_life(clock: Clock) -> None:
    from upscaled_models.imagen.service import Tally

    context = RecordingContext()
    tally = Tally(context, 1)
    tally.sent()
    for _ in range(100):
        clock.now += 1
        tally.nothing_new()
    # "waiting" would take it off the clock: a hang would never be noticed.
    assert set(context.stages) == {"sent"}
    assert None not in context.budgets_s
    assert 3 <= len(context.stages) <= 6


def test_a_wait_for_a_turn_or_for_another_try_is_reported_unless_it_is_short(clock: Clock) -> None:
    from upscaled_models.imagen.service import Tally

    context = RecordingContext()
    tally = Tally(context, 1)
    clock.now += 0.3
    tally.nothing_new()
    assert context.stages == []
    clock.now += 3
    tally.nothing_new()
    tally.nothing_new()
    assert context.stages == ["waiting"]
    assert None not in context.budgets_s
    tally.sent()
    tally.failed()
    clock.now += 3
    tally.nothing_new()
    tally.sent()
    tally.received()
    assert context.stages == ["waiting", "sent", "waiting", "sent", "received"]
    assert None not in context.budgets_s
    assert tally.made == 2


def test_a_job_that_has_all_its_pictures_waits_for_nothing(clock: Clock) -> None:
    from upscaled_models.imagen.service import Tally

    context = RecordingContext()
    tally = Tally(context, 1)
    tally.sent()
    tally.received()
    clock.now += 3
    tally.nothing_new()
    assert context.stages == ["sent", "received"]
