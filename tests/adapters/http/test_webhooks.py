"""Webhooks on a clock of the test's own, and a sender that answers as the test says: what is sent
when, and what a dead receiver may not delay."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from upscaled_http import webhooks as sending
from upscaled_http.deliveries import Deliveries
from upscaled_http.messages import JobStatus
from upscaled_http.receivers import DeliveryError
from upscaled_http.records import Record
from upscaled_http.signatures import Signer
from upscaled_http.webhooks import GIVEN_UP_AFTER_S, Webhooks
from waiting import TIMEOUT_S

SECRET = "whsec_" + "c2VjcmV0" * 4
URL = "https://a.example/hook?token=hush"


def record(job_id: str, url: str = URL, owner: str = "me") -> Record:
    return Record(
        job_id=job_id, owner=owner, method="fake", created_at=1e9, line=None, webhook=url,
        status="completed", finished_at=1e9 + 0.5,
    )  # fmt: skip


class Alarm:
    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.is_set = True

    def cancel(self) -> None:
        self.is_set = False


class FakeClock:
    """Stands still until the test moves it."""

    def __init__(self) -> None:
        self.time = 1e9
        self._alarm: Alarm | None = None
        self._changed = asyncio.Condition()

    def now(self) -> float:
        return self.time

    def call_at(self, when: float, callback: Callable[[], object]) -> Alarm:
        self._alarm = Alarm(when, callback)
        return self._alarm

    def advance(self, seconds: float) -> None:
        self.time += seconds
        if self._alarm is not None and self._alarm.is_set and self._alarm.when <= self.time:
            self._alarm.callback()

    async def pass_pause(self) -> float:
        """Go on to the next alarm, as soon as one is set; the seconds until then."""

        async def set_alarm() -> Alarm:
            while self._alarm is None or not self._alarm.is_set or self._alarm.when <= self.time:
                await asyncio.sleep(0)
            return self._alarm

        alarm = await asyncio.wait_for(set_alarm(), TIMEOUT_S)
        seconds = alarm.when - self.time
        self.advance(seconds)
        return seconds


class Receivers:
    """Stands for all receivers. `answers` has what a host answers; else the test answers."""

    def __init__(self) -> None:
        self.answers: dict[str, int | Exception] = {}
        self.sent: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.waiting: dict[str, asyncio.Future[int]] = {}
        self.bodies: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        host = url.split("/")[2]
        job_id = headers["webhook-id"]
        self.bodies.append(body)
        self.headers.append(headers)
        self.sent.put_nowait((host, job_id))
        answer = self.answers.get(host)
        if answer is None:
            self.waiting[job_id] = asyncio.get_running_loop().create_future()
            return await self.waiting[job_id]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def next(self) -> tuple[str, str]:
        """The next message that is sent: the host, and the job."""
        return await asyncio.wait_for(self.sent.get(), TIMEOUT_S)


class Lines(logging.Handler):
    """The log's lines: text and fields."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self._logged = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.getMessage(), getattr(record, "fields", {})))
        self._logged.set()

    async def wait(self, words: str) -> dict[str, Any]:
        """The fields of the first line with these words."""
        while True:
            for text, fields in self.lines:
                if words in text:
                    return fields
            self._logged.clear()
            await asyncio.wait_for(self._logged.wait(), TIMEOUT_S)


class Bench:
    """Webhooks on a file, with all that they need. `restart` makes new ones on the same file."""

    def __init__(self, path: Path) -> None:
        self.clock = FakeClock()
        self.receivers = Receivers()
        self.log = Lines()
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.deliveries = Deliveries(self.db)
        self._made()

    def _made(self) -> None:
        self.webhooks = Webhooks(self.deliveries, Signer(SECRET), self.receivers, clock=self.clock)
        self.webhooks.start()

    async def restart(self) -> None:
        await self.webhooks.stop()
        self._made()

    def add(self, job_id: str, url: str = URL, owner: str = "me") -> None:
        self.webhooks.handle_end(record(job_id, url, owner))

    async def check_quiet(self) -> None:
        """Nothing is sent, and nothing will be until something happens."""
        for _ in range(10):  # what is due is sent within three rounds of the loop
            await asyncio.sleep(0)
        assert self.receivers.sent.empty()

    async def recorded(self, attempts: int) -> None:
        """Until so many attempts have an outcome."""

        async def counted() -> None:
            while self.webhooks.counts.total() < attempts:
                await asyncio.sleep(0)

        await asyncio.wait_for(counted(), TIMEOUT_S)

    async def wait_settled(self) -> None:
        """Until nothing is left to be delivered."""

        async def settled() -> None:
            while self.webhooks.pending:
                await asyncio.sleep(0)

        await asyncio.wait_for(settled(), TIMEOUT_S)


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[Bench], Awaitable[None]]], None]:
    """Runs a test on an event loop."""

    def run_it(test: Callable[[Bench], Awaitable[None]]) -> None:
        async def on_loop() -> None:
            bench = Bench(tmp_path / "sidecar.db")
            logging.getLogger(sending.__name__).addHandler(bench.log)
            try:
                await test(bench)
            finally:
                logging.getLogger(sending.__name__).removeHandler(bench.log)
                await bench.webhooks.stop()
                bench.db.close()

        asyncio.run(on_loop())

    return run_it


Run = Callable[[Callable[[Bench], Awaitable[None]]], None]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_the_end_of_a_job_is_sent_with_the_job_and_no_more(run: Run, status: JobStatus) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 204
        ended = record("one")
        ended.status = status
        bench.webhooks.handle_end(ended)
        assert await bench.receivers.next() == ("a.example", "one")
        await bench.wait_settled()
        (body,) = bench.receivers.bodies
        assert json.loads(body) == {
            "type": f"job.{status}",
            "timestamp": "2001-09-09T01:46:40.500000Z",
            "data": json.loads(ended.body()),
        }
        assert bench.webhooks.counts == {"delivered": 1}
        assert bench.log.lines == []

    run(test)


def test_a_receiver_that_fails_is_tried_for_a_day_with_growing_pauses(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 500
        began = bench.clock.now()
        bench.add("one")
        pauses: list[float] = []
        await bench.receivers.next()
        await bench.recorded(1)
        while not bench.webhooks.counts["given_up"]:
            pauses.append(await bench.clock.pass_pause())
            await bench.receivers.next()
            await bench.recorded(len(pauses) + 1)
        assert pauses == [5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 28800]
        assert GIVEN_UP_AFTER_S - 28800 < bench.clock.now() - began <= GIVEN_UP_AFTER_S
        assert bench.webhooks.counts == {"failed": 10, "given_up": 1}
        assert bench.webhooks.pending == 0
        assert len(set(bench.receivers.bodies)) == 1
        assert {headers["webhook-id"] for headers in bench.receivers.headers} == {"one"}
        assert len({headers["webhook-timestamp"] for headers in bench.receivers.headers}) == 11

    run(test)


def test_the_log_tells_the_first_failure_and_the_last_and_never_the_url(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = DeliveryError("took longer than 15 s")
        bench.add("one")
        failed = await bench.log.wait("webhook failed")
        await bench.clock.pass_pause()
        await bench.receivers.next()
        await bench.receivers.next()
        bench.receivers.answers["a.example"] = 410
        await bench.clock.pass_pause()
        given_up = await bench.log.wait("given up")
        assert failed == {
            "job_id": "one",
            "receiver": "a.example:443",
            "attempts": 1,
            "reason": "took longer than 15 s",
        }
        assert given_up["attempts"] == 3
        assert given_up["reason"] == "answers 410"
        assert len(bench.log.lines) == 2
        assert "hush" not in str(bench.log.lines)

    run(test)


@pytest.mark.parametrize("status", [199, 301, 404, 429, 503])
def test_only_2xx_is_success(run: Run, status: int) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = status
        bench.add("one")
        await bench.receivers.next()
        bench.receivers.answers["a.example"] = 200
        assert await bench.clock.pass_pause() == 5
        await bench.receivers.next()
        await bench.wait_settled()
        assert bench.webhooks.counts == {"failed": 1, "delivered": 1}

    run(test)


def test_what_a_sender_did_not_foresee_is_a_failure_with_a_pause(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = RuntimeError("token=hush")
        bench.add("one")
        assert (await bench.log.wait("webhook failed"))["reason"] == "RuntimeError"
        assert await bench.clock.pass_pause() == 5

    run(test)


def test_a_receiver_that_answers_again_gets_what_was_kept_for_it(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 502
        for number in range(5):
            bench.add(str(number))
        for _ in range(5):
            await bench.receivers.next()
        bench.receivers.answers["a.example"] = 200
        await bench.clock.pass_pause()
        await bench.wait_settled()
        assert bench.webhooks.counts == {"failed": 5, "delivered": 5}

    run(test)


def test_a_webhook_survives_a_restart_with_its_pause(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 500
        bench.add("one")
        await bench.receivers.next()
        await bench.log.wait("webhook failed")
        await bench.clock.pass_pause()
        await bench.receivers.next()
        await bench.restart()
        bench.receivers.answers["a.example"] = 200
        assert await bench.clock.pass_pause() == 30
        assert await bench.receivers.next() == ("a.example", "one")
        await bench.wait_settled()

    run(test)


def test_what_was_being_sent_when_the_server_ended_is_sent_again(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.add("one")
        await bench.receivers.next()
        await bench.restart()
        assert await bench.receivers.next() == ("a.example", "one")

    run(test)


def test_after_the_stop_nothing_is_sent(run: Run) -> None:
    async def test(bench: Bench) -> None:
        await bench.webhooks.stop()
        bench.add("one")
        await bench.check_quiet()
        bench.clock.advance(GIVEN_UP_AFTER_S)
        await bench.check_quiet()
        assert bench.webhooks.pending == 1

    run(test)


def test_a_job_whose_end_was_not_recorded_sends_nothing(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 200
        bench.db.execute("BEGIN")
        bench.add("rolled back")
        bench.db.execute("ROLLBACK")
        await asyncio.sleep(0)
        bench.add("recorded")
        assert await bench.receivers.next() == ("a.example", "recorded")
        await bench.wait_settled()
        assert bench.webhooks.counts == {"delivered": 1}

    run(test)


def test_the_webhook_of_a_job_that_is_removed_is_not_sent_any_more(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 500
        bench.add("removed")
        await bench.log.wait("webhook failed")
        bench.deliveries.remove("removed")
        bench.receivers.answers["a.example"] = 200
        bench.clock.advance(60)
        bench.add("kept")
        await bench.receivers.next()
        assert await bench.receivers.next() == ("a.example", "kept")

    run(test)


def test_a_receiver_gets_two_messages_at_once(run: Run) -> None:
    async def test(bench: Bench) -> None:
        for number in range(4):
            bench.add(str(number))
        first = await bench.receivers.next()
        await bench.receivers.next()
        await bench.check_quiet()
        bench.receivers.waiting[first[1]].set_result(200)
        assert await bench.receivers.next() == ("a.example", "2")

    run(test)


def test_a_dead_receiver_delays_no_other_host_and_no_other_owner(run: Run) -> None:
    async def test(bench: Bench) -> None:
        for number in range(50):
            bench.add(f"dead {number}")
        await bench.receivers.next()
        await bench.receivers.next()
        bench.add("other host", "https://b.example/")
        bench.add("other port", "https://a.example:8443/")
        bench.add("other owner", owner="you")
        found = {(await bench.receivers.next())[1] for _ in range(3)}
        assert found == {"other host", "other port", "other owner"}

    run(test)


def test_many_dead_receivers_leave_places_for_those_that_answer(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["good.example"] = 200
        bench.add("good 1", "https://good.example/")
        await bench.receivers.next()
        await bench.wait_settled()
        for number in range(100):
            bench.add(f"dead {number}", f"https://dead-{number}.example/")
        sent = Counter([(await bench.receivers.next())[0][:4] for _ in range(8)])
        assert sent == {"dead": 8}
        await bench.check_quiet()
        for number in range(2, 20):
            bench.add(f"good {number}", "https://good.example/")
            assert await bench.receivers.next() == ("good.example", f"good {number}")

    run(test)


def test_sixteen_messages_are_sent_at_once(run: Run) -> None:
    async def test(bench: Bench) -> None:
        hosts = [f"{number}.example" for number in range(10)]
        bench.receivers.answers = dict.fromkeys(hosts, 200)
        for host in hosts:
            bench.add(f"first {host}", f"https://{host}/")
            await bench.receivers.next()
        await bench.wait_settled()
        bench.receivers.answers = {}
        for number in range(3):
            for host in hosts:
                bench.add(f"{number} {host}", f"https://{host}/")
        for _ in range(16):
            await bench.receivers.next()
        await bench.check_quiet()

    run(test)


@pytest.mark.parametrize(("status", "seconds"), [(500, 0), (200, 5)])
def test_a_receiver_that_fails_or_is_late_loses_its_privilege(
    run: Run, status: int, seconds: float
) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 200
        bench.add("good")
        await bench.receivers.next()
        await bench.wait_settled()
        del bench.receivers.answers["a.example"]
        bench.add("bad")
        await bench.receivers.next()
        bench.clock.advance(seconds)
        bench.receivers.waiting["bad"].set_result(status)
        await bench.recorded(2)
        for number in range(8):
            bench.add(f"dead {number}", f"https://dead-{number}.example/")
            await bench.receivers.next()
        bench.add("next")
        await bench.check_quiet()
        bench.receivers.waiting["dead 0"].set_result(500)
        assert await bench.receivers.next() == ("a.example", "next")

    run(test)


def test_receivers_take_turns(run: Run) -> None:
    async def test(bench: Bench) -> None:
        for number in range(8):
            bench.add(f"first {number}", f"https://{number}.example/")
            await bench.receivers.next()
        for number in range(20):
            bench.add(f"more {number}", "https://0.example/")
        bench.add("new", "https://new.example/")
        await bench.check_quiet()
        bench.receivers.waiting["first 0"].set_result(500)
        assert await bench.receivers.next() == ("0.example", "more 0")
        bench.receivers.waiting["more 0"].set_result(500)
        assert await bench.receivers.next() == ("new.example", "new")

    run(test)


def test_on_a_full_disk_a_delivered_message_is_not_sent_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_DISK_PAUSE_S", 0)

    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 200
        remove = bench.deliveries.remove

        def fail(_: str) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(bench.deliveries, "remove", fail)
        bench.add("one")
        await bench.receivers.next()
        await bench.log.wait("cannot be recorded")
        monkeypatch.setattr(bench.deliveries, "remove", remove)
        await bench.wait_settled()
        await bench.check_quiet()

    run(test)
