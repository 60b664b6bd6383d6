"""A Redis that lets machines connect and takes no writes, or that lacks what a queue needs."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("celery", reason="celery is not installed")

from celery.worker import state
from celery.worker.consumer import consumer as celerys

from queue_fleet import Fleet, needs_redis, running_fleet
from upscaled_queue import consumer, redisserver
from upscaled_queue.celerysettings import celery_settings
from upscaled_queue.consumer import Consumer
from upscaled_queue.queueurl import read_queue_url
from upscaled_queue.settings import Settings
from waiting import wait_until

LEASE_S = 4.0


class Clock:
    """Time passes in pauses alone."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(consumer, "time", clock)
    monkeypatch.setattr(celerys.Consumer, "on_connection_error_after_connected", lambda *_: None)
    return clock


def refused() -> Consumer:
    """A consumer that has connected."""
    settings = Settings(url=read_queue_url("redis://h/0"), lease_s=LEASE_S)
    made: Any = Consumer.__new__(Consumer)
    made.app = SimpleNamespace(conf=SimpleNamespace(**celery_settings(settings)))
    made.init_callback = None
    return made  # type: ignore[no-any-return]


def pause(consumer: Consumer, clock: Clock) -> float:
    began = clock.now
    consumer.on_connection_error_after_connected(ConnectionError("it takes no writes"))
    return round(clock.now - began, 2)


def test_a_consumer_pauses_longer_after_each_refusal_and_at_most_a_lease(clock: Clock) -> None:
    one = refused()
    assert [pause(one, clock) for _ in range(7)] == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0]
    one.on_ready()
    assert pause(one, clock) == 0.0


def test_a_signal_ends_a_pause(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    one = refused()
    pause(one, clock)
    monkeypatch.setattr(state, "should_stop", 0)
    with pytest.raises(SystemExit):
        pause(one, clock)
    assert clock.now == 0.0


def test_celery_takes_this_consumer() -> None:
    assert celery_settings(Settings(url=read_queue_url("redis://h/0")))["worker_consumer"] == (
        f"{Consumer.__module__}:{Consumer.__qualname__}"
    )


@needs_redis
def test_a_machine_waits_until_redis_takes_writes_again(fleet: Fleet) -> None:
    machine = fleet.start_machine("--lease-s", "2").wait_ready()
    redis = fleet.records.redis
    redis.slaveof("127.0.0.1", 1)
    wait_until(lambda: machine.has_logged("pulse_failed"), "the refusal")
    redis.slaveof()
    fleet.submit(fleet.job("after"))
    fleet.check_each_has_one_result(["after"])
    assert machine.process.poll() is None


@needs_redis
@pytest.mark.parametrize("scheme", ["redis", "bullmq"])
def test_a_cluster_is_refused_at_once(scheme: str, tmp_path: Path) -> None:
    with running_fleet(scheme, tmp_path, "--cluster-enabled", "yes") as fleet:
        answer = fleet.command("submit", jobs=[{"method": "fake", "config": {}}])
        assert answer.returncode == 2
        assert "is a cluster" in answer.stderr


@pytest.mark.parametrize(
    ("info", "told"),
    [
        ({"redis_mode": "sentinel", "redis_version": "7.0.15"}, "is a Sentinel"),
        ({"redis_mode": "standalone", "redis_version": "6.0.16"}, "has version 6.0.16"),
    ],
)
def test_a_server_that_lacks_commands_is_refused(
    info: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = nullcontext(SimpleNamespace(info=lambda: info))
    monkeypatch.setattr(redisserver, "connect", lambda _: server)
    with pytest.raises(redisserver.UnsafeRedisError, match=told):
        redisserver.check_server(read_queue_url("redis://h/0"))


@needs_redis
def test_what_a_user_may_not_do_is_one_sentence(fleet: Fleet) -> None:
    fleet.records.redis.acl_setuser(
        "few", enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all", "-@dangerous"]
    )
    fleet.url = fleet.url.replace("://", "://few:pw@")
    answer = fleet.command("submit", jobs=[fleet.job("refused")])
    assert answer.returncode == 1
    told = "upscaled queue: the queue cannot be used now: this user has no permissions"
    assert answer.stderr.startswith(told)


@needs_redis
def test_the_depth_is_told_while_redis_has_no_memory_left(fleet: Fleet) -> None:
    fleet.start_machine().wait_ready()
    fleet.submit(fleet.job("held", hang=True))
    fleet.wait_running("held")
    fleet.records.redis.config_set("maxmemory", 1)
    answer = fleet.command("depth", "--methods", "fake")
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)["fake"]
    assert (told["waiting"], told["running"], told["machines"]) == (0, 1, 1)


@needs_redis
def test_a_failed_job_that_cannot_be_given_anew_stays_a_dead_letter(fleet: Fleet) -> None:
    fleet.start_machine().wait_ready()
    fleet.submit(fleet.job("failed", error_code="input_not_found"))
    end = fleet.end_of("failed")
    # Its script is known to Redis, as it is after some time.
    fleet.submit(fleet.job("other", error_code="input_not_found"))
    fleet.end_of("other")
    assert fleet.command("requeue", "other").returncode == 0
    fleet.records.redis.config_set("maxmemory", 1)
    answer = fleet.command("requeue", "failed")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "the queue cannot be used now" in answer.stderr
    fleet.records.redis.config_set("maxmemory", 0)
    assert fleet.records.end_of("failed") == end
    url = fleet.url
    fleet.use_rabbitmq("amqp://127.0.0.1:1//")
    assert fleet.command("requeue", "failed").returncode == 1
    assert fleet.records.end_of("failed") == end
    fleet.url = url
    assert fleet.command("requeue", "failed").returncode == 0
    assert fleet.end_of("failed")["code"] == "input_not_found"


@needs_redis
def test_a_machine_that_is_sent_away_waits_for_no_redis_that_is_away(fleet: Fleet) -> None:
    machine = fleet.start_machine("--lease-s", "2", "--grace-s", "0.5").wait_ready()
    fleet.submit(fleet.job("moved", hang=True))
    fleet.wait_running("moved")
    fleet.redis.kill()
    machine.process.terminate()
    assert machine.wait_exit() == 0
    fleet.redis.start()
    fleet.start_machine("--lease-s", "2")
    wait_until(lambda: fleet.starts_of("moved") == 2, "the start elsewhere")
    assert fleet.records.cancel("moved")
    assert fleet.end_of("moved")["code"] == "cancelled"
