"""What is RabbitMQ's own: queues that are deleted, delayed messages, refusals, silence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from amqp.exceptions import AccessRefused, ChannelError, MessageNacked, NotFound

from queue_fleet import Fleet, RabbitServer, needs_redis, running_fleet
from upscaled_queue.celeryproducer import CeleryProducer
from upscaled_queue.celerysettings import celery_settings
from upscaled_queue.job import read_job
from upscaled_queue.outages import reason_of
from upscaled_queue.queueurl import read_queue_url
from upscaled_queue.redisserver import is_away
from upscaled_queue.settings import Settings
from waiting import TIMEOUT_S

SETTINGS = Settings(url=read_queue_url("amqp://127.0.0.1:1//", "redis://127.0.0.1:1/0"))
JOB = {"job_id": "a", "method": "fake", "config": {}}


@pytest.fixture
def fleet(tmp_path: Path, rabbit: RabbitServer) -> Iterator[Fleet]:
    """Without machines."""
    with running_fleet("redis", tmp_path) as running:
        running.use_rabbitmq(rabbit.url)
        yield running


@pytest.mark.parametrize("error", [AccessRefused(), NotFound("no exchange"), MessageNacked()])
def test_what_rabbitmq_refuses_is_told_and_ends_nothing(error: Exception) -> None:
    assert is_away(error)
    assert reason_of(error)


def test_a_job_that_no_queue_gets_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    producer = CeleryProducer(SETTINGS)
    sent: list[bool] = []

    def send(*_: object, mandatory: bool, **__: object) -> None:
        sent.append(mandatory)
        if len(sent) == 1:
            raise ChannelError("NO_ROUTE", reply_code=312)

    monkeypatch.setattr("celery.Celery.send_task", send)
    producer.submit(read_job(JOB))
    assert sent == [True, True]


def test_messages_may_be_delayed_by_rabbitmq_itself() -> None:
    rabbitmq = celery_settings(SETTINGS)
    assert rabbitmq["task_default_exchange_type"] == "topic"
    assert rabbitmq["task_create_missing_queue_exchange_type"] == "topic"


@needs_redis
@pytest.mark.long
def test_a_queue_that_was_deleted_under_its_producer_is_there_again(
    fleet: Fleet, rabbit: RabbitServer
) -> None:
    fleet.submit(fleet.job("deleted with it"))
    rabbit.control("delete_queue", "fake")
    fleet.submit(fleet.job("next"))
    fleet.start_machine().wait_ready()
    assert fleet.end_of("next")["type"] == "result"


@needs_redis
@pytest.mark.long
def test_a_job_with_a_countdown_holds_no_slot_and_needs_no_machine_yet(fleet: Fleet) -> None:
    delay = (
        "import json, sys; from upscaled_queue.celery import upscale; "
        "upscale.apply_async((json.loads(sys.argv[1]),), countdown=int(sys.argv[2]))"
    )
    queue = {"UPSCALED_QUEUE_URL": fleet.url, "UPSCALED_QUEUE_RECORD": fleet.redis.url}
    environment = {**fleet.environment(), **queue}
    for job_id, countdown in (("soon", 3), ("later", 3600)):
        command = [sys.executable, "-c", delay, json.dumps(fleet.job(job_id)), str(countdown)]
        subprocess.run(command, check=True, env=environment, timeout=TIMEOUT_S)
    fleet.start_machine("--slots", "1").wait_ready()
    fleet.submit(fleet.job("now"))
    for job_id in ("now", "soon"):
        assert fleet.end_of(job_id)["type"] == "result"
    assert fleet.records.end_of("later") is None


@needs_redis
@pytest.mark.long
def test_a_job_that_is_tried_again_later_is_not_dropped_as_delivered_too_often(
    fleet: Fleet, rabbit: RabbitServer
) -> None:
    # RabbitMQ 4 has such a limit by default, of 20.
    limit = json.dumps({"delivery-limit": 1})
    rabbit.control("set_policy", "limit", ".*", limit, "--apply-to", "queues")
    fleet.start_machine("--max-deliveries", "3").wait_ready()
    fleet.submit({"job_id": "tried", "method": "fake", "config": {"error_code": "upstream_quota"}})
    assert fleet.end_of("tried")["code"] == "upstream_quota"
    assert fleet.starts_of("tried") == 3


@needs_redis
@pytest.mark.long
def test_a_wrong_password_is_told_by_each_command(fleet: Fleet) -> None:
    fleet.url = fleet.url.replace("guest:guest", "guest:wrong")
    for command in ("submit", "depth"):
        answer = fleet.command(command, jobs=[JOB])
        assert answer.returncode == 1
        assert answer.stdout == ""
        assert "the queue cannot be used now: (0, 0): (403) ACCESS_REFUSED" in answer.stderr
    machine = fleet.start_machine()
    assert machine.wait_exit() == 1
    assert "ACCESS_REFUSED" in "".join(machine.log)


@needs_redis
@pytest.mark.long
def test_a_rabbitmq_without_memory_keeps_no_producer_waiting(
    fleet: Fleet, rabbit: RabbitServer
) -> None:
    rabbit.control("set_vm_memory_high_watermark", "absolute", "1048576")
    answer = fleet.command("submit", jobs=[fleet.job("refused")])
    assert answer.returncode == 1
    assert "the queue cannot be used now: timed out" in answer.stderr
