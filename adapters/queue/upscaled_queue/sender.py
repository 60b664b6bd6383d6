"""Sends the webhooks of all machines' jobs, in one process at a time.

Each machine has a sender, and so has `upscaled queue run`. Only the sender that holds the lease
sends. If its machine is killed, another sender takes the lease when it has expired. What was being
sent then is sent again, with the same id.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress

import redis.asyncio
from prometheus_client import Metric
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from upscaled_protocol.log import Logger
from upscaled_queue.outages import reason_of
from upscaled_queue.outbox import Outbox, read_ended
from upscaled_queue.record import ENCODING_ERRORS, OUTBOX
from upscaled_queue.settings import Settings
from upscaled_queue.webhooks import WebhookSettings
from upscaled_webhooks.receivers import Poster
from upscaled_webhooks.signatures import Signer
from upscaled_webhooks.webhooks import Outcome, SystemClock, Webhooks, attempts_metric

# So many that the lease does not expire if one renewal is lost.
_RENEWALS_PER_LEASE = 4
# How long a process that leaves sends what is due: the time that a machine has after its grace.
_DRAIN_S = 3.0
# How long Redis waits for an end before it answers without one. A sender that stops waits for the
# answer.
_FOLLOW_MS = 250
# The time limit of an answer. It is longer than the wait for an end.
_SOCKET_TIMEOUT_S = 5.0
# Between two tries to follow the ends.
_FOLLOW_AGAIN_S = 1.0


class RecordClock(SystemClock):
    """Redis' time, because machines' clocks differ, and may be set meanwhile."""

    _offset_s = 0.0

    def now(self) -> float:
        """Redis' time, as of the last `set`."""
        return time.monotonic() + self._offset_s

    def set(self, now: float) -> None:
        """Set the time that Redis has now."""
        self._offset_s = now - time.monotonic()


class WebhookSender:
    """A thread that ends with the process, or at `stop`."""

    def __init__(self, settings: Settings, webhooks: WebhookSettings, log: Logger) -> None:
        self._settings = settings
        self._log = log
        self._signer = Signer(webhooks.secret)
        self._poster = Poster(webhooks.destinations)
        self._outbox = Outbox(settings.url.record, settings.machine)
        self._clock = RecordClock()
        self._counts: Counter[Outcome] = Counter()
        self._webhooks: Webhooks | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="upscaled-webhooks", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        # Here, because `stop` uses it at once, and not before: it opens sockets, which the thread
        # closes.
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def stop(self) -> None:
        """Send what is due, for 3 s at most, and end. Other processes send the rest."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def collect(self) -> Iterator[Metric]:
        """The metric of this process's attempts."""
        webhooks = self._webhooks
        counts = self._counts + (webhooks.counts if webhooks is not None else Counter())
        yield attempts_metric(counts)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._given_loop) as runner:
            runner.run(self._take_turns())

    def _given_loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None
        return self._loop

    async def _take_turns(self) -> None:
        is_away = False
        while not self._stopping.is_set():
            try:
                if self._hold():
                    await self._send()
                is_away = False
            except self._outbox.outages as error:
                if not is_away:
                    self._warn("webhooks wait, because Redis is away", {"reason": reason_of(error)})
                is_away = True
            await self._is_stopping()

    def _hold(self) -> bool:
        """Take the lease or renew it; false if another process has it. Raises the outages of
        Redis."""
        is_held, now = self._outbox.hold(self._settings.lease_s)
        self._clock.set(now)
        return is_held

    async def _is_stopping(self) -> bool:
        """Wait for a quarter of the lease; true if the process is to stop."""
        try:
            await asyncio.wait_for(
                self._stopping.wait(), self._settings.lease_s / _RENEWALS_PER_LEASE
            )
        except TimeoutError:
            return False
        return True

    async def _send(self) -> None:
        """Send for as long as this process holds the lease. Raises the outages of Redis."""
        webhooks = self._webhooks = Webhooks(
            self._outbox, self._signer, self._poster, clock=self._clock, warn=self._warn
        )
        # First the stream's place, then all webhooks that wait, so that none in between is missed.
        place = self._outbox.last_end()
        webhooks.start()
        ended = asyncio.Event()
        following = asyncio.create_task(self._follow(webhooks, place, ended))
        try:
            await self._send_while_held(webhooks)
        finally:
            # Not cancelled: redis-py loses a cancel that comes while it connects, or its socket.
            ended.set()
            await asyncio.gather(following, return_exceptions=True)
            await webhooks.stop()
            self._counts += webhooks.counts
            self._webhooks = None

    async def _send_while_held(self, webhooks: Webhooks) -> None:
        is_stopping = False
        while not is_stopping:
            is_stopping = await self._is_stopping()
            # Also at the end: the machine's last jobs have just ended, and would not be due yet by
            # the time of an earlier answer of Redis.
            if self._outbox.is_lost or not self._hold():
                return
            # The stream may have been cut, so ask for the webhooks of all receivers.
            webhooks.start()
        await webhooks.drain(_DRAIN_S)
        if waiting := webhooks.pending:
            self._log.log("info", "webhooks_left", count=waiting)
        self._outbox.leave()

    async def _follow(self, webhooks: Webhooks, place: str, ended: asyncio.Event) -> None:
        """Wake the receivers of the jobs that end after that place, until `ended` is set."""
        client = redis.asyncio.from_url(
            self._settings.url.record,
            decode_responses=True,
            encoding_errors=ENCODING_ERRORS,
            protocol=2,
            socket_timeout=_SOCKET_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # this loop is one
        )
        async with client:
            while not ended.is_set():
                try:
                    found = await client.xread({OUTBOX: place}, count=1000, block=_FOLLOW_MS)
                except self._outbox.outages:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), _FOLLOW_AGAIN_S)
                    continue
                last, receivers = read_ended(found)
                place = last or place
                for receiver in receivers:
                    webhooks.wake(receiver)

    def _warn(self, text: str, fields: Mapping[str, object]) -> None:
        self._log.log("warning", "webhook", detail=text, **dict(fields))
