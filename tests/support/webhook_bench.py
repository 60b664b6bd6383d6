"""Webhooks on a clock of the test, and a sender that answers as the test says."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from upscaled_http.deliveries import RegistryDeliveries
from upscaled_http.records import Record
from upscaled_http.webhooks import JobWebhooks
from upscaled_webhooks import webhooks as sending
from upscaled_webhooks.signatures import Signer
from upscaled_webhooks.webhooks import Webhooks
from waiting import TIMEOUT_S
from webhook_receiver import SECRET

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
        self.deliveries = RegistryDeliveries(self.db)
        self._made()

    def _made(self) -> None:
        self.webhooks = Webhooks(self.deliveries, Signer(SECRET), self.receivers, clock=self.clock)
        self.jobs = JobWebhooks(self.deliveries, self.webhooks)
        self.webhooks.start()

    async def restart(self) -> None:
        await self.webhooks.stop()
        self._made()

    def add(self, job_id: str, url: str = URL, owner: str = "me") -> None:
        self.jobs.handle_end(record(job_id, url, owner))

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


Run = Callable[[Callable[[Bench], Awaitable[None]]], None]


def run_on_loop(test: Callable[[Bench], Awaitable[None]], path: Path) -> None:
    """Run a test with a bench on the file at `path`, on an event loop."""

    async def on_loop() -> None:
        bench = Bench(path)
        logging.getLogger(sending.__name__).addHandler(bench.log)
        try:
            await test(bench)
        finally:
            logging.getLogger(sending.__name__).removeHandler(bench.log)
            await bench.webhooks.stop()
            bench.db.close()

    asyncio.run(on_loop())
