"""The webhooks that wait in a real Redis, on a clock of the test, sent to a real receiver."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from queue_fleet import RedisServer, needs_redis
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.log import Logger
from upscaled_protocol.urlpolicy import HostPort, UrlPolicy
from upscaled_queue.command import main
from upscaled_queue.daemonargs import daemon_environment
from upscaled_queue.job import error_event, read_job
from upscaled_queue.outbox import Outbox
from upscaled_queue.queueurl import read_queue_url
from upscaled_queue.record import Records
from upscaled_queue.sender import WebhookSender
from upscaled_queue.settings import Settings
from upscaled_queue.webhooks import (
    WebhookSettings,
    check_webhook,
    message_id,
    message_of,
    read_webhook_settings,
)
from upscaled_webhooks.deliveries import Receiver as To
from upscaled_webhooks.receivers import Poster
from upscaled_webhooks.signatures import Signer
from upscaled_webhooks.webhooks import Sender, Webhooks
from waiting import TIMEOUT_S, wait_until
from webhook_bench import FakeClock, Receivers
from webhook_receiver import SECRET, Receiver, receiving

LEASE_S = 60.0


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis") / "data")
    yield server
    server.kill()


@pytest.fixture
def records(redis_server: RedisServer) -> Records:
    records = Records(redis_server.url, 3600)
    records.redis.flushdb()
    return records


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def end(records: Records, job_id: str, url: str, *, code: str | None = None) -> None:
    """Let a job end here, as a machine does."""
    event: dict[str, Any] = {"type": "result", "job_id": job_id, "status": "completed"}
    if code is not None:
        event = error_event(JobError(ErrorCode(code), "no"), job_id)
    job = {"job_id": job_id, "method": "fake", "config": {}, "webhook_url": url}
    records.settle(job_id, "fake", event, job, message_of(url, "fake", event))


class Sending:
    """One process that sends, on the test's clock."""

    def __init__(self, outbox: Outbox, sender: Sender) -> None:
        self.clock = FakeClock()
        self.outbox = outbox
        is_held, self.clock.time = outbox.hold(LEASE_S)
        assert is_held
        self.log: list[tuple[str, dict[str, object]]] = []
        self.webhooks = Webhooks(
            outbox, Signer(SECRET), sender, clock=self.clock,
            warn=lambda text, fields: self.log.append((text, dict(fields))),
        )  # fmt: skip

    async def attempts(self, count: int) -> None:
        """Until so many have an outcome that is recorded."""
        while self.webhooks.counts.total() < count:
            await asyncio.sleep(0.001)
        await self.webhooks.drain(60)


def run(
    records: Records,
    test: Callable[[Sending], Awaitable[None]],
    *allowed: str,
    sender: Sender | None = None,
) -> Sending:
    """Send, on a loop, what waits in the record's Redis."""
    url = records.redis.connection_pool.connection_kwargs
    poster = Poster(UrlPolicy(allow_hosts=frozenset(map(HostPort.parse, allowed))))
    outbox = Outbox(f"redis://127.0.0.1:{url['port']}/0", "one")
    sending = Sending(outbox, sender or poster)

    async def on_loop() -> None:
        sending.webhooks.start()
        try:
            await asyncio.wait_for(test(sending), 60)
        finally:
            await sending.webhooks.stop()
            sending.outbox.leave()

    asyncio.run(on_loop())
    return sending


def webhook_status(records: Records, job_id: str) -> dict[str, Any]:
    return dict(records.status_of(job_id, LEASE_S)["webhook"])


@needs_redis
def test_of_two_attempts_at_a_job_only_the_one_that_counts_is_told(
    records: Records, receiver: Receiver
) -> None:
    end(records, "one", receiver.url())
    end(records, "one", receiver.url(), code="stalled")

    async def test(sending: Sending) -> None:
        await sending.attempts(1)

    sending = run(records, test, receiver.host)
    assert receiver.next()["type"] == "job.completed"
    assert receiver.events.empty()
    assert len(sending.outbox) == 0
    assert webhook_status(records, "one") == {"state": "delivered", "attempts": 1}


@needs_redis
def test_a_receiver_that_is_down_gets_it_once_it_is_up(
    records: Records, receiver: Receiver
) -> None:
    receiver.socket.close()
    end(records, "one", receiver.url())

    async def test(sending: Sending) -> None:
        await sending.attempts(1)
        assert webhook_status(records, "one") == {"state": "waiting", "attempts": 1}
        with rebound(receiver):
            assert await sending.clock.pass_pause() == pytest.approx(5, abs=0.01)
            await sending.attempts(2)

    run(records, test, receiver.host)
    assert receiver.next()["data"]["job_id"] == "one"
    assert webhook_status(records, "one") == {"state": "delivered", "attempts": 2}


@contextmanager
def rebound(receiver: Receiver) -> Iterator[None]:
    """A receiver again on the port of one that was closed; it hands its messages on."""
    with receiving(receiver.server_port) as again:
        again.events = receiver.events
        yield


@needs_redis
def test_a_receiver_that_answers_500_gets_it_again_under_the_same_id(
    records: Records, receiver: Receiver
) -> None:
    receiver.status = 500
    end(records, "one", receiver.url())

    async def test(sending: Sending) -> None:
        await sending.attempts(1)
        receiver.status = 204
        await sending.clock.pass_pause()
        await sending.attempts(2)

    run(records, test, receiver.host)
    assert receiver.ids == ["one", "one"]
    assert webhook_status(records, "one") == {"state": "delivered", "attempts": 2}


@needs_redis
def test_what_fails_for_a_day_is_given_up_and_the_record_tells_it(records: Records) -> None:
    end(records, "one", "https://a.example/hook?token=hush")

    async def test(sending: Sending) -> None:
        began = sending.clock.now()
        await sending.attempts(1)
        while not sending.webhooks.counts["given_up"]:
            done = sending.webhooks.counts.total()
            await sending.clock.pass_pause()
            await sending.attempts(done + 1)
        assert 57600 < sending.clock.now() - began <= 86400

    receivers = Receivers()
    receivers.answers["a.example"] = 500
    sending = run(records, test, sender=receivers)
    told = webhook_status(records, "one")
    assert told == {"state": "given_up", "attempts": 11, "reason": "answers 500"}
    assert [text for text, _ in sending.log][-1] == "a webhook was given up"
    assert "hush" not in str(sending.log) + str(told)
    assert len(sending.outbox) == 0


@needs_redis
def test_a_redirect_to_a_private_address_is_not_followed(
    records: Records, receiver: Receiver
) -> None:
    with receiving() as private:
        receiver.status, receiver.location = 307, private.url()
        end(records, "one", receiver.url())

        async def test(sending: Sending) -> None:
            await sending.attempts(1)

        run(records, test, receiver.host)
        assert private.events.empty()
    assert webhook_status(records, "one") == {"state": "waiting", "attempts": 1}


@needs_redis
def test_a_private_receiver_that_is_not_allowed_gets_nothing(
    records: Records, receiver: Receiver
) -> None:
    end(records, "one", f"http://localhost:{receiver.server_port}/")

    async def test(sending: Sending) -> None:
        await sending.attempts(1)

    sending = run(records, test)
    assert "not on the public internet" in str(sending.log)
    assert receiver.events.empty()


@needs_redis
def test_a_process_that_was_frozen_past_its_lease_takes_nothing_from_the_next_one(
    records: Records, redis_server: RedisServer, receiver: Receiver
) -> None:
    end(records, "one", receiver.url())
    frozen, other = Outbox(redis_server.url, "frozen"), Outbox(redis_server.url, "other")
    assert frozen.hold(LEASE_S)[0]
    assert not other.hold(LEASE_S)[0]
    delivery = frozen.next(To("", receiver.host), ())
    assert delivery is not None
    records.redis.delete("upscaled:webhook-sender")  # as when its time is over
    assert other.hold(LEASE_S)[0]
    frozen.postpone(delivery, delivery.due_at + 86400)
    assert frozen.is_lost
    frozen.give_up(delivery, "no HTTP answer")
    assert other.next(To("", receiver.host), ()) == delivery
    # But what a receiver has, it has.
    frozen.remove(delivery)
    assert len(other) == 0
    assert other.receivers() == {}


@needs_redis
def test_a_job_that_is_given_anew_takes_its_waiting_webhook_along(
    records: Records, redis_server: RedisServer, receiver: Receiver
) -> None:
    outbox, to = Outbox(redis_server.url, "one"), To("", receiver.host)
    end(records, "one", receiver.url(), code="stalled")
    assert (records.forget("one") or {})["webhook_url"] == receiver.url()
    assert outbox.next(to, ()) is None
    end(records, "one", receiver.url())
    again = outbox.next(to, ())
    assert again is not None
    assert (again.job_id, json.loads(again.body)["type"]) == ("one", "job.completed")
    assert again.message_id != "one"


@contextmanager
def sender_of(url: str, receiver: Receiver, log: Path, lease_s: float) -> Iterator[WebhookSender]:
    """A machine's sender, in this process."""
    allowed = UrlPolicy(allow_hosts=frozenset([HostPort.parse(receiver.host)]))
    settings = Settings(url=read_queue_url(url), lease_s=lease_s)
    with log.open("wb") as file:
        sender = WebhookSender(settings, WebhookSettings(SECRET, allowed), Logger(file.fileno()))
        sender.start()
        try:
            yield sender
        finally:
            sender.stop()


def wait_delivered(records: Records, job_id: str) -> None:
    wait_until(
        lambda: webhook_status(records, job_id)["state"] == "delivered", f"the delivery of {job_id}"
    )


def test_a_sender_that_is_never_started_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(socket, "socketpair", lambda *_: opened.append("a pair"))
    monkeypatch.setattr(socket, "socket", lambda *_, **__: opened.append("a socket"))
    settings = Settings(url=read_queue_url("redis://127.0.0.1:1/0"))
    sender = WebhookSender(settings, WebhookSettings(SECRET, UrlPolicy()), Logger(2))
    sender.stop()
    assert opened == []


@needs_redis
def test_a_sender_waits_for_a_redis_that_was_killed(tmp_path: Path, receiver: Receiver) -> None:
    server, log = RedisServer(tmp_path / "redis"), tmp_path / "log"
    try:
        with sender_of(server.url, receiver, log, 0.2):
            records = Records(server.url, 3600)
            end(records, "before", receiver.url())
            assert receiver.next()["data"]["job_id"] == "before"
            wait_delivered(records, "before")
            server.kill()
            wait_until(lambda: b"Redis is away" in log.read_bytes(), "the log's line")
            server.start()
            end(records, "after", receiver.url())
            assert receiver.next()["data"]["job_id"] == "after"
    finally:
        server.kill()


@needs_redis
def test_a_sender_stops_while_redis_is_away(tmp_path: Path, receiver: Receiver) -> None:
    server, log = RedisServer(tmp_path / "redis"), tmp_path / "log"
    try:
        with sender_of(server.url, receiver, log, 0.2) as sender:
            wait_until(Records(server.url, 3600).redis.dbsize, "the lease")
            server.kill()
            wait_until(lambda: b"Redis is away" in log.read_bytes(), "the log's line")
            stopping = threading.Thread(target=sender.stop)
            stopping.start()
            stopping.join(TIMEOUT_S)
            assert not stopping.is_alive()
    finally:
        server.kill()


@needs_redis
def test_a_sender_that_stops_sends_what_has_just_ended_and_waits_for_the_answer(
    records: Records,
    redis_server: RedisServer,
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hear_nothing(*given: Any) -> None:
        await given[-1].wait()  # its end

    # The stream's news is late: the sender has to look by itself.
    monkeypatch.setattr(WebhookSender, "_follow", hear_nothing)
    # On a busy machine the first connection alone may take longer than the sender's patience.
    monkeypatch.setattr("upscaled_queue.sender._DRAIN_S", TIMEOUT_S)
    receiver.answers.clear()
    with sender_of(redis_server.url, receiver, tmp_path / "log", LEASE_S) as sender:
        wait_until(lambda: records.redis.exists("upscaled:webhook-sender"), "the lease")
        end(records, "last", receiver.url())
        stopping = threading.Thread(target=sender.stop)
        stopping.start()
        receiver.next()
        receiver.answers.set()
        stopping.join(TIMEOUT_S)
        assert webhook_status(records, "last") == {"state": "delivered", "attempts": 1}
        assert not records.redis.exists("upscaled:webhook-sender")


def test_an_id_that_no_header_can_have_is_replaced() -> None:
    assert message_id("pictures/poster-17.png") == "pictures/poster-17.png"
    replaced = {message_id(one) for one in ("a b", "ä", "a\r\nb", "x" * 300)}
    assert len(replaced) == 4
    assert all(one.isalnum() for one in replaced)


@pytest.mark.parametrize("url", ["", 7, "ftp://h/", "https://u:p@h/", "https://h/ x", "x"])
def test_a_webhook_that_is_no_url_is_refused_at_the_submit(url: object) -> None:
    with pytest.raises(JobError, match="webhook_url") as caught:
        read_job({"job_id": "1", "method": "fake", "config": {}, "webhook_url": url})
    assert caught.value.code == "invalid_job"
    assert caught.value.job_id == "1"


def test_a_fleet_has_the_sidecars_variables(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    settings = read_webhook_settings(
        {
            "UPSCALED_WEBHOOKS_SECRET_FILE": str(file),
            "UPSCALED_WEBHOOKS_ALLOW_HOSTS": "backend:3000, 127.0.0.1:9099",
        },
        ["[::1]:8080"],
    )
    assert settings is not None
    assert (settings.secret, SECRET in repr(settings)) == (SECRET, False)
    for host in ("backend:3000", "127.0.0.1:9099", "[::1]:8080"):
        check_webhook(f"http://{host}/hook", "1", settings)
    with pytest.raises(JobError, match="not one of the allowed hosts"):
        check_webhook("https://elsewhere.example/", "1", settings)
    assert read_webhook_settings({}) is None
    with pytest.raises(JobError, match="UPSCALED_WEBHOOKS_SECRET is not set"):
        check_webhook("http://backend:3000/hook", "1", None)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"UPSCALED_WEBHOOKS_SECRET": "tooshort"}, "UPSCALED_WEBHOOKS_SECRET: needs whsec_"),
        ({"UPSCALED_WEBHOOKS_SECRET_FILE": "/nonexistent"}, "/nonexistent cannot be read"),
        ({"UPSCALED_WEBHOOKS_ALLOW_HOSTS": "backend"}, "'backend' is not host:port"),
    ],
)
def test_settings_that_cannot_work_are_told(env: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_webhook_settings(env)


def test_a_sender_without_a_secret_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("UPSCALED_WEBHOOKS_SECRET", raising=False)
    assert main(["webhooks", "--queue", "redis://127.0.0.1:1/0"]) == 2
    assert "set UPSCALED_WEBHOOKS_SECRET" in capsys.readouterr().err


def test_a_machines_daemon_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSCALED_WEBHOOKS_SECRET", SECRET)
    monkeypatch.setenv("UPSCALED_QUEUE_URL", "redis://:secret@h/0")
    monkeypatch.setenv("UPSCALED_DEVICE", "cpu")
    environment = daemon_environment(os.environ)
    assert "secret" not in " ".join(environment)
    assert SECRET not in environment.values()
    assert environment["UPSCALED_DEVICE"] == "cpu"
    assert "UPSCALED_QUEUE_URL" not in environment
