"""When a machine decides that nothing is delivered to it any more, or that it is idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("redis", reason="redis is not installed")

from upscaled_queue.pulse import Pulse
from upscaled_queue.queueurl import read_queue_url
from upscaled_queue.settings import Settings
from waiting import TIMEOUT_S

LEASE_S = 0.08


class Queue:
    """An engine whose answers are given. An exception is an outage."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers = list(answers)
        self.looks = 0

    def renew(self, leases: list[str]) -> None:
        """Nothing runs."""

    def waiting(self, *, is_soon: bool) -> int:
        """The next answer; the last one again and again."""
        assert not is_soon
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        self.looks += 1
        return answer


def looks_until_stuck(queue: Queue) -> int:
    """How often the queue said that jobs wait before the machine, which is given none, leaves."""
    stuck = threading.Event()
    machine = SimpleNamespace(
        settings=Settings(url=read_queue_url("redis://127.0.0.1/0"), lease_s=LEASE_S),
        records=SimpleNamespace(touch=lambda *_: []),
        log=SimpleNamespace(log=lambda *_, **__: None),
        given_up=threading.Event(),
        runs={},
        news={},
        running=list,
        is_stopping=False,
        # Long before the outage ends.
        last_delivery=time.monotonic() - 100 * LEASE_S,
    )
    looks: list[int] = []

    def exit_stuck() -> None:
        looks.append(queue.looks)
        machine.given_up.set()
        stuck.set()

    machine.exit_stuck = exit_stuck
    Pulse(cast(Any, machine), queue, 1, lambda: None).start()
    assert stuck.wait(TIMEOUT_S)
    return looks[0]


def test_a_machine_is_stuck_only_if_jobs_wait_at_look_after_look() -> None:
    assert looks_until_stuck(Queue(0, 1)) > 2


def test_an_outage_is_no_time_in_which_nothing_was_delivered() -> None:
    away = ConnectionError("away")
    # One look before it, and none of those after it alone.
    assert looks_until_stuck(Queue(1, away, away, 1)) > 2


class Worked(SimpleNamespace):
    """A machine whose last job ended long ago; it is looked at once."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(
            settings=Settings(url=read_queue_url("redis://127.0.0.1/0"), idle_exit_s=60.0),
            log=SimpleNamespace(log=lambda *_, **__: None),
            given_up=SimpleNamespace(wait=lambda _: vars(self).update(is_stopping=True)),
            is_stopping=False,
            last_delivery=time.monotonic() - 1000,
            **fields,
        )

    def leaves(self, waiting: Callable[[], int]) -> bool:
        """Whether it leaves, because it is idle."""
        left: list[bool] = []
        queue = SimpleNamespace(waiting=lambda is_soon: waiting() if is_soon else 0)
        Pulse(cast(Any, self), cast(Any, queue), 1, lambda: left.append(True))._watch_idleness()
        return bool(left)


def test_a_machine_without_a_job_leaves() -> None:
    assert Worked(runs={}).leaves(lambda: 0)
    assert not Worked(runs={}).leaves(lambda: 1)
    assert not Worked(runs={"1": object()}).leaves(lambda: 0)


def test_a_job_that_starts_while_the_queue_is_looked_at_keeps_its_machine() -> None:
    machine = Worked(runs={})

    def start() -> int:
        machine.runs["1"] = object()
        return 0

    assert not machine.leaves(start)


def test_a_machine_whose_job_ends_while_it_is_looked_at_is_not_idle_yet() -> None:
    class Ends(dict[str, object]):
        def __bool__(self) -> bool:
            machine.last_delivery = time.monotonic()
            return False

    machine = Worked(runs=Ends())
    assert not machine.leaves(lambda: 0)
