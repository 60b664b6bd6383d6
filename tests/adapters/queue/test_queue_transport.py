"""What a machine that is killed at the worst moment leaves in Redis."""

from __future__ import annotations

import json
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queue_fleet import RedisServer, needs_redis
from upscaled_queue import celery, transport
from upscaled_queue.job import read_job
from upscaled_queue.producer import Producer
from upscaled_queue.queueurl import read_queue_url
from upscaled_queue.record import Records, connect
from upscaled_queue.settings import Settings

pytestmark = needs_redis

TRANSPORT = "upscaled_queue.transport:Transport"
# Typed in name alone.
kombu: Any = pytest.importorskip("kombu")
OPTIONS = {"priority_steps": list(range(10)), "queue_order_strategy": "priority"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of its own."""
    running = RedisServer(tmp_path / "redis")
    yield running
    running.kill()


def publish(connection: Any, *priorities: int) -> None:
    with connection.Producer() as producer:
        for priority in priorities:
            producer.publish({"priority": priority}, routing_key="fake", priority=priority)


def take(channel: Any) -> Any:
    """What Redis answers; the machine is killed before it reads it."""
    channel._brpop_start()
    channel._in_poll = None
    return channel.client.parse_response(channel.client.connection, "EVAL")


def test_a_message_is_noted_in_the_step_that_takes_it(server: RedisServer) -> None:
    with kombu.Connection(server.url, transport=TRANSPORT, transport_options=OPTIONS) as connection:
        channel = connection.channel()
        kombu.Queue("fake", channel=channel).declare()
        channel.basic_consume("fake", False, lambda _: None, "consumer")
        publish(connection, 4, 0, 4)
        channel.client.connection = channel.client.connection_pool.get_connection()
        _, item, is_noted = take(channel)
        assert is_noted == 1
        assert json.loads(item)["properties"]["priority"] == 0
        with connect(server.url) as client:
            noted = client.hgetall("unacked")
            assert (client.llen("fake"), client.llen("fake\x06\x164")) == (0, 2)
            # As kombu writes it, so that any machine puts it back when the lease is over.
            assert [json.loads(text) for text in noted.values()] == [[json.loads(item), "", "fake"]]
            assert client.zrange("unacked_index", 0, -1) == list(noted)


def test_a_message_that_redis_cannot_read_is_noted_by_the_machine(server: RedisServer) -> None:
    with kombu.Connection(server.url, transport=TRANSPORT, transport_options=OPTIONS) as connection:
        got: list[Any] = []
        with connection.Consumer(kombu.Queue("fake"), on_message=got.append):
            with connection.Producer() as producer:
                # Half a surrogate pair, which cjson refuses.
                producer.publish({}, routing_key="fake", headers={"argsrepr": "\udcff"})
            while not got:
                connection.drain_events(timeout=20)
        with connect(server.url) as client:
            (noted,) = client.hgetall("unacked").values()
            assert json.loads(noted)[0]["headers"]["argsrepr"] == "\udcff"
            got[0].ack()
            assert not client.exists("unacked", "unacked_index")


def test_an_idle_machine_waits_for_a_message_without_taking_it(server: RedisServer) -> None:
    with kombu.Connection(server.url, transport=TRANSPORT, transport_options=OPTIONS) as connection:
        got: list[Any] = []
        with connection.Consumer(kombu.Queue("fake"), callbacks=[lambda body, _: got.append(body)]):
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=1)
            publish(connection, 4, 7)
            while len(got) < 2:
                connection.drain_events(timeout=20)
            assert got == [{"priority": 4}, {"priority": 7}]


@pytest.mark.parametrize("ahead_s", [-1000, 1000])
def test_a_machine_whose_clock_is_wrong_holds_its_leases_and_takes_none_of_others(
    ahead_s: float, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is 60 s. The message of a machine that is gone has been taken 100 s ago."""
    real = time.time

    class Clock(types.ModuleType):
        monotonic, sleep = staticmethod(time.monotonic), staticmethod(time.sleep)

        @staticmethod
        def time() -> float:
            return real() + ahead_s

    wrong = Clock("time")
    for module in (transport, celery):
        monkeypatch.setattr(module, "time", wrong)
    monkeypatch.setattr("kombu.transport.redis.time", wrong.time)
    options = {**OPTIONS, "visibility_timeout": 60}
    with kombu.Connection(server.url, transport=TRANSPORT, transport_options=options) as connection:
        got: list[Any] = []
        with (
            connection.Consumer(kombu.Queue("fake"), on_message=got.append) as consumer,
            connect(server.url) as client,
        ):
            publish(connection, 4, 4)
            while len(got) < 2:
                connection.drain_events(timeout=20)
            held, gone = (one.delivery_tag for one in got)
            assert client.zscore("unacked_index", held) == pytest.approx(real(), abs=50)
            client.zadd("unacked_index", {held: real() - 100, gone: real() - 100})
            settings = Settings(url=read_queue_url(server.url))
            celery.CeleryEngine(settings).renew([held])
            consumer.channel.qos.restore_visible(interval=1)
            assert client.zrange("unacked_index", 0, -1) == [held]
            assert client.llen("fake\x06\x164") == 1


def test_each_producer_of_a_process_gives_to_its_own_queue(tmp_path: Path) -> None:
    servers = [RedisServer(tmp_path / name) for name in ("one", "two")]
    try:
        for number, server in enumerate(servers):
            settings = Settings(url=read_queue_url(server.url))
            producer = Producer(settings, Records(server.url, 60))
            producer.submit([read_job({"job_id": str(number), "method": "fake", "config": {}})])
        for server in servers:
            with connect(server.url) as client:
                assert client.llen("fake\x06\x164") == 1
    finally:
        for server in servers:
            server.kill()
