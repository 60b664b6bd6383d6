"""What waits and runs, per method: the numbers by which machines are added and taken away."""

from __future__ import annotations

import time
from typing import Any, cast

import orjson

from upscaled_queue.record import Records, connect
from upscaled_queue.settings import URGENT, Settings

# No transactions, because a Redis without memory takes none, and then machines may be needed most.

# kombu's names of a list for each priority: the first has the queue's own name.
_SEPARATOR = "\x06\x16"
_LEVELS = range(10)
# The longest pause before another try of a job. BullMQ keeps such jobs apart.
_SOON_S = 60.0
# BullMQ's score of a delayed job is its time in milliseconds, shifted by the bits of a counter.
_SCORE_PER_MS = 0x1000
# A RabbitMQ that does not answer for so long is away.
_TIMEOUT_S = 5


def depth(settings: Settings, records: Records) -> dict[str, dict[str, Any]]:
    """For each method: `waiting`, `running`, `machines`, and `oldest_s`: how long the oldest job
    waits. That is None if no job waits, and on RabbitMQ, which does not know it. Raises the errors
    of the engines' clients."""
    depths = {}
    for method in settings.methods:
        waiting, oldest_s = _waiting(settings, method, is_soon=True)
        running, machines = records.counts(method, settings.lease_s)
        depths[method] = {
            "waiting": waiting,
            "running": running,
            "oldest_s": None if oldest_s is None else round(oldest_s, 1),
            "machines": machines,
        }
    return depths


def count_waiting(settings: Settings, *, is_soon: bool) -> int:
    """Jobs that wait in the queues of these methods, and could be delivered now, or if `is_soon`
    within a minute. Raises the errors of the engines' clients."""
    return sum(_waiting(settings, method, is_soon=is_soon)[0] for method in settings.methods)


def _waiting(settings: Settings, method: str, *, is_soon: bool) -> tuple[int, float | None]:
    """How many jobs wait, and for how many seconds the oldest has."""
    if settings.url.engine == "bullmq":
        return _bullmq_waiting(settings, method, is_soon=is_soon)
    return _celery_waiting(settings, method)


def _celery_waiting(settings: Settings, method: str) -> tuple[int, float | None]:
    queue = settings.queue_of(method)
    if not settings.url.is_redis:
        return _rabbitmq_waiting(settings.url.broker, queue), None
    lists = [f"{queue}{_SEPARATOR}{level}" if level else queue for level in _LEVELS]
    with connect(settings.url.broker) as client, client.pipeline(transaction=False) as pipe:
        for one in lists:
            pipe.llen(one)
            pipe.lindex(one, -1)
        answers = pipe.execute()
    given = [_given_at(text) for text in answers[1::2] if text]
    return sum(answers[::2]), _age(min(filter(None, given), default=None))


def _bullmq_waiting(settings: Settings, method: str, *, is_soon: bool) -> tuple[int, float | None]:
    """Jobs of a paused queue are not counted, because no machine would get them."""
    root = f"bull:{settings.queue_of(method)}"
    with connect(settings.url.broker) as client:
        if client.hexists(f"{root}:meta", "paused"):
            return 0, None
        with client.pipeline(transaction=False) as pipe:
            pipe.llen(f"{root}:wait")
            pipe.zcard(f"{root}:prioritized")
            pipe.lindex(f"{root}:wait", -1)
            pipe.zrange(f"{root}:prioritized", 0, 0)
            latest_ms = (time.time() + _SOON_S) * 1000 if is_soon else 0
            pipe.zcount(f"{root}:delayed", "-inf", latest_ms * _SCORE_PER_MS)
            plain, prioritized, oldest, first, delayed = pipe.execute()
        ids = [one for one in (oldest, *first) if one]
        given = [cast(str | None, client.hget(f"{root}:{one}", "timestamp")) for one in ids]
    oldest_at = min((float(one) / 1000 for one in given if one), default=None)
    return plain + prioritized + delayed, _age(oldest_at)


def _rabbitmq_waiting(broker: str, queue: str) -> int:
    from amqp.exceptions import NotFound
    from kombu.connection import Connection

    total, options = 0, {"read_timeout": _TIMEOUT_S, "write_timeout": _TIMEOUT_S}
    with Connection(broker, transport_options=options) as connection:  # type: ignore[no-untyped-call]
        for name in (queue, queue + URGENT):
            try:
                with connection.channel() as channel:
                    total += channel.queue_declare(name, passive=True).message_count
            except NotFound:
                continue  # not used yet
    return total


def _given_at(text: str) -> float | None:
    try:
        value = orjson.loads(text)["headers"]["given_at"]
    except (ValueError, TypeError, LookupError):  # another producer's, or no message at all
        return None
    return float(value) if isinstance(value, int | float) else None


def _age(at: float | None) -> float | None:
    return None if at is None else max(0.0, time.time() - at)
