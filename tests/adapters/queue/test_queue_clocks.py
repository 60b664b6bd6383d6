"""Jobs and webhooks that wait for their time, also if a machine's clock is wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bullmq", reason="bullmq is not installed")

from bullmq import Queue

from queue_fleet import Fleet, needs_redis, running_fleet
from upscaled_queue.sender import RecordClock
from waiting import wait_until

# Above the 5 s after which redis-py by default gives up a command that waits.
DELAY_MS = 5_500
# `sitecustomize` of a machine's interpreters.
AN_HOUR_FAST = """
import time

right = time.time
time.time = lambda: right() + 3600
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """On BullMQ, without machines."""
    with running_fleet("bullmq", tmp_path) as running:
        yield running


@needs_redis
def test_a_delayed_job_of_bullmq_starts_also_if_no_other_job_comes(fleet: Fleet) -> None:
    async def add() -> None:
        queue: Any = Queue("fake", {"connection": fleet.redis.url})
        await queue.add("fake", fleet.job("later"), {"delay": DELAY_MS})
        await queue.close()

    fleet.start_machine().wait_ready()
    asyncio.run(add())
    fleet.check_each_has_one_result(["later"])


@needs_redis
def test_a_machine_whose_clock_is_fast_keeps_no_job_from_the_others(
    fleet: Fleet, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(AN_HOUR_FAST)
    fleet.env = {"PYTHONPATH": str(tmp_path)}
    fast = fleet.start_machine("--max-deliveries", "3").wait_ready()
    fleet.submit(fleet.job("retried", error_code="out_of_memory"))
    wait_until(lambda: fast.has_logged("job_given_back"), "the first try")
    fleet.env = {}
    fleet.start_machine("--max-deliveries", "3").wait_ready()
    # Not killed: what it has then comes back after a lease, whatever its clock is.
    fast.process.terminate()
    fast.wait_exit()
    assert fleet.end_of("retried")["code"] == "out_of_memory"


def test_webhooks_keep_their_time_if_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = RecordClock()
    clock.set(1000.0)
    after_an_hour = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: after_an_hour)
    assert 1000.0 <= clock.now() < 2000.0
