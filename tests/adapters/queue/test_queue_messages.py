"""Messages that no producer of ours has written."""

from __future__ import annotations

import asyncio
import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("celery", reason="celery is not installed")
pytest.importorskip("bullmq", reason="bullmq is not installed")

from queue_fleet import Fleet, needs_redis
from upscaled_queue.celerymessage import UnreadableMessageError, check_message, read_item
from upscaled_queue.record import connect
from waiting import wait_until

# The list of the default priority.
LIST = "fake\x06\x164"


def body(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def message(tag: str = "1", **more: Any) -> dict[str, Any]:
    headers = {"id": "a", "task": "upscaled.upscale", "timelimit": [None, None], "eta": None}
    properties = {
        "delivery_tag": tag,
        "delivery_info": {"exchange": "", "routing_key": "fake"},
        "body_encoding": "base64",
    }
    return {
        "body": body([[{}], {}, {"callbacks": None}]),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": properties,
        **more,
    }


def properties(**more: Any) -> dict[str, Any]:
    return message(properties={**message()["properties"], **more})


def headers(**more: Any) -> dict[str, Any]:
    return message(headers={**message()["headers"], **more})


# Each of them ended a machine, or held a slot of it for ever, and then the next machine's.
UNREADABLE: dict[str, Any] = {
    "a number": 7,
    "a list": [],
    "no properties": {"body": "x"},
    "no tag": properties(delivery_tag=None),
    "no route": properties(delivery_info=None),
    "another encoding": properties(body_encoding="x"),
    "no base64": message(body="%%%"),
    "a body of no type": {**message(), "content-type": 5},
}
UNREADABLE_BY_CELERY: dict[str, Any] = {
    "no id": headers(id=None),
    "an id that is a number": headers(id=5),
    "a task that is a list": headers(task=[]),
    "a time that is a number": headers(eta=5),
    "no pair of time limits": headers(timelimit=[]),
    "stamps that are no list": headers(stamped_headers=-1.5),
    "no JSON": message(body=base64.b64encode(b"\xff{").decode()),
    "a body that is the job": message(body=body({"job_id": "a", "method": "fake", "config": {}})),
    "a body of one part": message(body=body([[]])),
    "arguments that are a text": message(body=body([[{}], {}, "x"])),
    "callbacks that are a text": message(body=body([[{}], {}, {"callbacks": "x"}])),
}


def of_kombu(fields: dict[str, Any]) -> SimpleNamespace:
    """As kombu gives it to Celery."""

    class Message(SimpleNamespace):
        @property
        def payload(self) -> Any:
            return json.loads(base64.b64decode(fields["body"]))

    return Message(headers=fields["headers"])


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_item_that_is_no_message_is_unreadable(name: str) -> None:
    with pytest.raises(UnreadableMessageError):
        read_item(json.dumps(UNREADABLE[name]))


@pytest.mark.parametrize("name", UNREADABLE_BY_CELERY)
def test_a_message_that_celery_would_exit_for_is_unreadable(name: str) -> None:
    fields = UNREADABLE_BY_CELERY[name]
    assert read_item(json.dumps(fields)) == fields
    with pytest.raises(UnreadableMessageError):
        check_message(of_kombu(fields))


def test_messages_of_both_protocols_of_celery_are_read() -> None:
    check_message(of_kombu(message()))
    first = {"task": "upscaled.upscale", "id": "a", "args": [{}], "kwargs": {}}
    check_message(of_kombu(message(headers={}, body=body(first))))
    assert read_item(json.dumps(message(body=""))) == message(body="")


def put(fleet: Fleet, *jobs: dict[str, Any]) -> None:
    """As a producer that checks nothing."""
    if fleet.url.startswith("redis"):
        with connect(fleet.redis.url) as redis:
            for number, job in enumerate(jobs):
                one = message(str(number), body=body([[job], {}, {}]))
                one["headers"] = {**one["headers"], "id": f"task-{number}", "argsrepr": str(job)}
                redis.lpush(LIST, json.dumps(one))
        return

    async def add() -> None:
        from bullmq import Queue

        queue: Any = Queue("fake", {"connection": fleet.redis.url})
        for job in jobs:
            await queue.add("fake", job, {})
        await queue.close()

    asyncio.run(add())


@needs_redis
def test_a_job_with_half_a_character_has_one_end_also_if_it_is_in_its_id(fleet: Fleet) -> None:
    half = "\ud800"
    jobs: list[dict[str, Any]] = [
        {"job_id": half, "method": "fake", "config": {}},
        {"job_id": "method", "method": half, "config": {}},
        {"job_id": "path", "method": "fake", "config": {"output_path": "/outside/\udcff.txt"}},
    ]
    machine = fleet.start_machine().wait_ready()
    put(fleet, *jobs)
    codes = [fleet.end_of(job["job_id"])["code"] for job in jobs]
    assert codes == ["invalid_job", "unknown_method", "path_not_allowed"]
    fleet.submit(fleet.job("after"))
    fleet.check_each_has_one_result(["after"])
    assert len(fleet.ends()) == 4
    assert json.loads(fleet.command("results").stdout.splitlines()[0])["job_id"]
    if not fleet.url.startswith("redis"):
        wait_until(
            lambda: fleet.records.redis.zcard("bull:fake:failed") == 3, "the failures in BullMQ"
        )
    assert not machine.has_logged("delivery_failed")


@needs_redis
def test_a_record_that_is_no_end_is_one_sentence_and_ends_its_job(fleet: Fleet) -> None:
    records = {
        "words": b"garbage",
        "bytes": b"\xff\xfe",
        "list": b"[]",
        "field": b'{"type":"error","job_id":"field"}',
    }
    redis = fleet.records.redis
    for job_id, record in records.items():
        redis.set(f"upscaled:record:{job_id}", record)
    told = fleet.command("results", *records)
    assert told.returncode == 0, told.stderr
    for job_id, line in zip(records, told.stdout.splitlines(), strict=True):
        assert json.loads(line)["error"].startswith(
            f"the record of job {job_id} is no end of a job"
        )
    machine = fleet.start_machine("--slots", "1").wait_ready()
    put(fleet, *map(fleet.job, records))
    fleet.submit(fleet.job("after"))
    fleet.check_each_has_one_result(["after"])
    wait_until(lambda: not redis.exists("unacked_index", "bull:fake:active"), "an empty queue")
    assert not machine.has_logged("delivery_failed")


@needs_redis
@pytest.mark.parametrize("fleet", ["redis"], indirect=True, ids=["celery"])
def test_a_message_that_no_worker_can_read_is_dropped_and_the_machine_goes_on(
    fleet: Fleet,
) -> None:
    wrong = ["{no json", *map(json.dumps, (UNREADABLE | UNREADABLE_BY_CELERY).values())]
    with connect(fleet.redis.url) as redis:
        redis.lpush(LIST, *wrong)
        depth = json.loads(fleet.command("depth", "--methods", "fake").stdout)["fake"]
        assert (depth["waiting"], depth["oldest_s"]) == (len(wrong), None)
        machine = fleet.start_machine("--slots", "1").wait_ready()
        fleet.submit(fleet.job("after"))
        fleet.check_each_has_one_result(["after"])

        def dropped() -> list[str]:
            return [line for line in machine.log if '"event":"message_dropped"' in line]

        wait_until(lambda: len(dropped()) == len(wrong), "a line for each of them")
        assert '"queue":"fake"' in dropped()[0]
        wait_until(lambda: not redis.exists(LIST, "unacked", "unacked_index"), "an empty queue")
    assert machine.process.poll() is None


@needs_redis
@pytest.mark.parametrize("fleet", ["bullmq"], indirect=True)
def test_a_job_of_bullmq_that_cannot_be_read_fails_and_the_machine_goes_on(fleet: Fleet) -> None:
    redis = fleet.records.redis
    for job_id, options in (("broken", "{}"), ("bare", "[")):
        redis.hset(f"bull:fake:{job_id}", items=["name", "fake", "data", "{no", "opts", options])
        redis.lpush("bull:fake:wait", job_id)
    machine = fleet.start_machine("--slots", "1")
    fleet.submit(fleet.job("after"))
    fleet.check_each_has_one_result(["after"])
    wait_until(lambda: redis.llen("bull:fake:active") == 0, "the end of all of them in BullMQ")
    for job_id in ("broken", "bare"):
        reason = redis.hget(f"bull:fake:{job_id}", "failedReason")
        assert reason == f"invalid_job: the fields of job {job_id} in Redis cannot be read"
    assert machine.has_logged("message_dropped")
