"""What Celery itself can do with a job: let it wait for its time, expire it, revoke it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

pytest.importorskip("celery", reason="celery is not installed")

from celery import Celery
from redis.exceptions import OutOfMemoryError

from queue_fleet import Fleet, Job, needs_redis, running_fleet
from upscaled_queue.celery import app
from upscaled_queue.celeryresults import MachineLeftError, ResultBackend
from waiting import TIMEOUT_S, wait_until

pytestmark = needs_redis

LEASE_S = 1.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """One machine with one slot."""
    with running_fleet("redis", tmp_path) as running:
        running.start_machine("--lease-s", str(LEASE_S), "--slots", "1").wait_ready()
        yield running


@pytest.fixture
def backend(fleet: Fleet) -> Celery:
    """The app of a backend that gives jobs."""
    app = Celery(broker=fleet.url, backend=fleet.url, set_as_current=False)
    steps: Any = list(range(10))
    app.conf.broker_transport_options = {
        "priority_steps": steps,
        "queue_order_strategy": "priority",
    }
    return app


def give(backend: Celery, job: Job, **options: Any) -> Any:
    name = "upscaled.upscale"
    return backend.send_task(
        name, (job,), queue="fake", priority=4, task_id=job["job_id"], **options
    )


def test_a_job_that_waits_for_its_time_is_not_delivered_again(
    fleet: Fleet, backend: Celery
) -> None:
    give(backend, fleet.job("later"), countdown=600)
    redis: Any = fleet.records.redis
    wait_until(lambda: redis.zcard("unacked_index") == 1, "its delivery")
    ((tag, taken_at),) = redis.zrange("unacked_index", 0, -1, withscores=True)
    wait_until(
        lambda: (redis.zscore("unacked_index", tag) or 0) > taken_at + 2 * LEASE_S, "its renewals"
    )
    message, *_ = json.loads(str(redis.hget("unacked", tag)))
    assert not message["properties"]["delivery_info"].get("redelivered")
    # It takes no slot meanwhile.
    fleet.submit(fleet.job("now"))
    fleet.check_each_has_one_result(["now"])


@pytest.mark.parametrize("how", ["revoked", "expires"])
def test_a_job_that_celery_does_not_start_ends_as_cancelled(
    fleet: Fleet, backend: Celery, how: str
) -> None:
    fleet.submit(fleet.job("holds", hang=True))
    fleet.wait_running("holds")
    give(backend, fleet.job("unwanted"), **({"expires": 0.001} if how == "expires" else {}))
    if how == "revoked":
        wait_until(lambda: backend.control.revoke("unwanted", reply=True), "the machine's answer")
    assert fleet.records.cancel("holds")
    end = fleet.end_of("unwanted")
    assert (end["type"], end["code"]) == ("error", "cancelled")
    assert how in end["error"]
    assert fleet.starts_of("unwanted") == 0
    assert not (fleet.outputs / "unwanted").exists()


def test_a_result_that_redis_refuses_is_written_as_soon_as_it_takes_writes(
    fleet: Fleet, backend: Celery
) -> None:
    (machine,) = fleet.machines
    redis = fleet.records.redis
    held = fleet.job("full", steps=2, at_step=1, hang=True, only_on_attempt=1)
    result = give(backend, held)
    fleet.wait_progress("full")
    redis.config_set("maxmemory", 1)
    try:
        *_, worker = machine.daemon.children(recursive=True)
        worker.kill()
        fleet.end_of("full")
        wait_until(lambda: "_store_result" in "".join(machine.log), "the refusal of the result")
    finally:
        redis.config_set("maxmemory", 0)
    assert result.get(timeout=TIMEOUT_S)["job_id"] == "full"
    # Its only slot is free again.
    fleet.submit(fleet.job("next"))
    fleet.check_each_has_one_result(["full", "next"])
    assert machine.process.poll() is None


def test_a_machine_that_leaves_waits_for_no_redis_to_take_a_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_up = Event()
    given_up.set()
    monkeypatch.setattr(ResultBackend, "given_up", given_up)
    results = app.backend
    assert isinstance(results, ResultBackend)
    assert results.exception_safe_to_retry(OutOfMemoryError("maxmemory"))
    with pytest.raises(MachineLeftError):
        results._sleep(TIMEOUT_S)
