"""Sends webhooks: each until its receiver has answered 2xx, or a day has passed.

Each is kept by a store until then, so it survives a restart. It is sent at least once, and each
attempt has the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, Protocol, get_args

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from upscaled_webhooks.deliveries import Deliveries, Delivery, Receiver
from upscaled_webhooks.receivers import DeliveryError
from upscaled_webhooks.signatures import Signer

# The pause after each failed attempt. The last one is repeated until a day has passed.
PAUSES_S = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800)
GIVEN_UP_AFTER_S = 86400.0
# The most deliveries that are sent at a time: in all, to one receiver, and to all receivers whose
# last answer was not good. So receivers that answer well always find a place.
_AT_ONCE = 16
_AT_ONCE_PER_RECEIVER = 2
_AT_ONCE_UNPROVEN = 8
# A slower answer is not a good one.
_SLOW_S = 2.0
# How many receivers with a good last answer are remembered.
_MAX_PROVEN = 1000
# The pause after the store failed, as it does on a full disk.
_OUTAGE_PAUSE_S = 5.0
# A longer wait is split, because the system's clock may be set meanwhile.
_LONGEST_WAIT_S = 60.0
_NEVER = float("inf")

_LOG = logging.getLogger(__name__)

Outcome = Literal["delivered", "failed", "given_up"]
# Writes a warning to the log: its text and its fields.
Warn = Callable[[str, Mapping[str, object]], None]


class Alarm(Protocol):
    """A call that a clock will make."""

    def cancel(self) -> None:
        """Do not make the call."""


class Clock(Protocol):
    """Time in seconds since 1970."""

    def now(self) -> float:
        """The time."""

    def call_at(self, when: float, callback: Callable[[], object]) -> Alarm:
        """Call at that time, or earlier. The caller checks the time again."""


class SystemClock:
    """The machine's clock, on the running event loop."""

    def now(self) -> float:
        """The time."""
        return time.time()

    def call_at(self, when: float, callback: Callable[[], object]) -> Alarm:
        """Call at that time, or after a minute if that is earlier."""
        wait_s = min(max(when - self.now(), 0.0), _LONGEST_WAIT_S)
        return asyncio.get_running_loop().call_later(wait_s, callback)


class Sender(Protocol):
    """Sends a webhook, as `Poster` does."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """Send, and return the status of the answer. Raises `DeliveryError`."""


@dataclass
class _Queue:
    """One receiver's deliveries. wakes_at: when they are checked again, at the latest."""

    wakes_at: float = _NEVER
    sending: set[str] = field(default_factory=set)


def _warn(text: str, fields: Mapping[str, object]) -> None:
    _LOG.warning(text, extra={"fields": fields})


def attempts_metric(counts: Mapping[Outcome, int]) -> Metric:
    """For Prometheus: attempts by their outcome."""
    attempts = CounterMetricFamily(
        "upscaled_webhook_attempts",
        "Webhooks sent. `failed` is tried again, `given_up` is not.",
        labels=["outcome"],
    )
    for outcome in get_args(Outcome):
        attempts.add_metric([outcome], counts.get(outcome, 0))
    return attempts


def pending_metric(count: int) -> Metric:
    """For Prometheus: webhooks that have not ended."""
    return GaugeMetricFamily("upscaled_webhooks_pending", "Webhooks to be delivered.", value=count)


class Webhooks:
    """Sends each webhook when it is due. Call it from the event loop.

    counts: attempts by their outcome.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        signer: Signer,
        sender: Sender,
        *,
        clock: Clock | None = None,
        warn: Warn = _warn,
    ) -> None:
        self.clock = clock or SystemClock()
        self.counts: Counter[Outcome] = Counter()
        self._deliveries = deliveries
        self._signer = signer
        self._sender = sender
        self._warn = warn
        self._queues: dict[Receiver, _Queue] = {}
        # A heap of the times in `wakes_at`.
        self._waking: list[tuple[float, Receiver]] = []
        # Receivers that may send now, in order. These dicts are ordered sets, as is `_proven`.
        self._ready: dict[Receiver, None] = {}
        self._ready_unproven: dict[Receiver, None] = {}
        self._proven: dict[Receiver, None] = {}
        self._sends: set[asyncio.Task[None]] = set()
        self._unproven_sends: set[str] = set()
        self._alarm: Alarm | None = None
        self._started = False

    @property
    def pending(self) -> int:
        """The number of deliveries that have not ended."""
        return len(self._deliveries)

    def collect(self) -> Iterator[Metric]:
        """For Prometheus."""
        yield attempts_metric(self.counts)
        yield pending_metric(self.pending)

    def start(self) -> None:
        """Send what is due, and what other processes have recorded since the last call. Raises the
        outages of the store."""
        self._started = True
        for receiver, due_at in self._deliveries.receivers().items():
            self._wake_at(receiver, due_at)
        self._send_due()

    async def stop(self) -> None:
        """Send nothing more. What is being sent now is sent again after the next start."""
        self._started = False
        if self._alarm is not None:
            self._alarm.cancel()
        sends = list(self._sends)
        for send in sends:
            send.cancel()
        await asyncio.gather(*sends, return_exceptions=True)

    async def drain(self, limit_s: float) -> None:
        """Wait until nothing is being sent and nothing is due, but not for longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._sends:
                    await asyncio.wait(set(self._sends))
                    # The end of a send may have started the next one.
                    await asyncio.sleep(0)

    def wake(self, receiver: Receiver) -> None:
        """Send what is due for the receiver, in the loop's next round."""
        self._make_ready(receiver)
        asyncio.get_running_loop().call_soon(self._send_due)

    def _send_due(self) -> None:
        """Send every delivery that is due and finds a place; set the alarm for the next one."""
        if not self._started:
            return
        now = self.clock.now()
        while self._waking and self._waking[0][0] <= now:
            wakes_at, receiver = heapq.heappop(self._waking)
            queue = self._queues.get(receiver)
            if queue is not None and queue.wakes_at == wakes_at:
                queue.wakes_at = _NEVER
                self._make_ready(receiver)
        try:
            while (ready := self._next_ready()) is not None:
                self._start_first(ready, now)
        except self._deliveries.outages as error:
            self._warn("the webhooks to be sent cannot be read", {"reason": str(error)})
            for receiver in (*self._ready, *self._ready_unproven):
                self._wake_at(receiver, now + _OUTAGE_PAUSE_S)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._waking:
            self._alarm = self.clock.call_at(self._waking[0][0], self._send_due)

    def _make_ready(self, receiver: Receiver) -> None:
        """Let the receiver send, after those that wait already."""
        self._queues.setdefault(receiver, _Queue())
        ready = self._ready if receiver in self._proven else self._ready_unproven
        ready.setdefault(receiver)

    def _wake_at(self, receiver: Receiver, when: float) -> None:
        queue = self._queues.setdefault(receiver, _Queue())
        if when < queue.wakes_at:
            queue.wakes_at = when
            heapq.heappush(self._waking, (when, receiver))

    def _next_ready(self) -> Receiver | None:
        """The next receiver that may send, if there is a place for it."""
        if len(self._sends) >= _AT_ONCE:
            return None
        if self._ready:
            return next(iter(self._ready))
        if self._ready_unproven and len(self._unproven_sends) < _AT_ONCE_UNPROVEN:
            return next(iter(self._ready_unproven))
        return None

    def _start_first(self, receiver: Receiver, now: float) -> None:
        queue = self._queues[receiver]
        delivery = None
        if len(queue.sending) < _AT_ONCE_PER_RECEIVER:
            delivery = self._deliveries.next(receiver, queue.sending)
            if delivery is None and not queue.sending:
                del self._queues[receiver]
        self._ready.pop(receiver, None)
        self._ready_unproven.pop(receiver, None)
        if delivery is None:
            return
        if delivery.due_at > now:
            self._wake_at(receiver, delivery.due_at)
            return
        queue.sending.add(delivery.message_id)
        if receiver not in self._proven:
            self._unproven_sends.add(delivery.message_id)
        send = asyncio.create_task(self._send(receiver, delivery))
        self._sends.add(send)
        send.add_done_callback(self._sends.discard)
        send.add_done_callback(lambda _send: self._free(receiver, delivery.message_id))
        self._make_ready(receiver)  # for the next one

    def _free(self, receiver: Receiver, message_id: str) -> None:
        self._queues[receiver].sending.discard(message_id)
        self._unproven_sends.discard(message_id)
        self._make_ready(receiver)
        self._send_due()

    async def _send(self, receiver: Receiver, delivery: Delivery) -> None:
        started = self.clock.now()
        status: int | None = None
        try:
            headers = self._signer.headers(delivery.message_id, started, delivery.body)
            status = await self._sender.post(delivery.url, headers, delivery.body)
            reason = f"answers {status}"
        except DeliveryError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - else it is sent again without a pause
            reason = type(error).__name__
        now = self.clock.now()
        is_delivered = status is not None and HTTPStatus(200) <= status < HTTPStatus(300)
        self._judge(receiver, is_good=is_delivered and now - started <= _SLOW_S)
        if is_delivered:
            self.counts["delivered"] += 1
            await self._recorded(lambda: self._deliveries.remove(delivery))
            return
        pause_s = PAUSES_S[min(delivery.attempts, len(PAUSES_S) - 1)]
        if status == HTTPStatus.GONE or now + pause_s > delivery.created_at + GIVEN_UP_AFTER_S:
            self.counts["given_up"] += 1
            self._log("a webhook was given up", receiver, delivery, reason)
            await self._recorded(lambda: self._deliveries.give_up(delivery, reason))
            return
        self.counts["failed"] += 1
        if not delivery.attempts:
            self._log("a webhook failed, and is tried for a day", receiver, delivery, reason)
        await self._recorded(lambda: self._deliveries.postpone(delivery, now + pause_s))

    def _judge(self, receiver: Receiver, *, is_good: bool) -> None:
        self._proven.pop(receiver, None)
        if is_good:
            self._proven[receiver] = None
            if len(self._proven) > _MAX_PROVEN:
                del self._proven[next(iter(self._proven))]

    async def _recorded(self, record: Callable[[], None]) -> None:
        """Record an outcome. If the store fails, try again: without the record the receiver would
        get the same message again."""
        while True:
            try:
                return record()
            except self._deliveries.outages as error:
                self._warn("the outcome of a webhook cannot be recorded", {"reason": str(error)})
                await asyncio.sleep(_OUTAGE_PAUSE_S)

    def _log(self, text: str, receiver: Receiver, delivery: Delivery, reason: str) -> None:
        """Log without the URL, which may hold a token."""
        fields = {
            "job_id": delivery.job_id,
            "receiver": receiver.host,
            "attempts": delivery.attempts + 1,
            "reason": reason,
        }
        self._warn(text, fields)
