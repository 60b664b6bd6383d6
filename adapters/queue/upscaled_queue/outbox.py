"""The webhooks that wait in Redis, for all machines' jobs.

    upscaled:webhook:ID       job_id, receiver, url, body, created_at, attempts
    upscaled:webhooks:HOST    the ids of a receiver's webhooks, by the time of their next attempt
    upscaled:webhooks         the receivers that have any
    upscaled:webhook-sender   the process that sends them, for a lease

`settle` writes a webhook and the end that it is about in one script, so there is never one without
the other. Of these keys only the lease expires: a webhook stays until it is delivered or given up.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import redis

from upscaled_protocol.lines import encode_line
from upscaled_queue import scripts
from upscaled_queue.job import Message
from upscaled_queue.record import OUTBOX, connect
from upscaled_webhooks.deliveries import Delivery, Receiver

_SENDER = "upscaled:webhook-sender"
_RECEIVERS = "upscaled:webhooks"


class Outbox:
    """`Deliveries` in one Redis. name: the name of this process, for the lease.

    is_lost: True if another process has taken the lease. Set when this one renews it, or records an
    attempt.
    """

    outages: tuple[type[Exception], ...] = (redis.RedisError, OSError)

    def __init__(self, url: str, name: str) -> None:
        self._redis = connect(url)
        self._name = name
        self.is_lost = False
        script = self._redis.register_script
        self._hold, self._leave = script(scripts.HOLD_SENDER), script(scripts.LEAVE_SENDER)
        self._postpone, self._end = script(scripts.POSTPONE_WEBHOOK), script(scripts.END_WEBHOOK)

    # --- the lease ------------------------------------------------------------------------------

    def hold(self, lease_s: float) -> tuple[bool, float]:
        """Take the lease or renew it. Returns False if another process has it, and Redis' time."""
        is_held, now = self._hold([_SENDER], [self._name, max(1, round(lease_s * 1000))])
        self.is_lost = not is_held
        return bool(is_held), float(now)

    def leave(self) -> None:
        """Give the lease back, so that another process can send at once."""
        self._leave([_SENDER], [self._name])

    def last_end(self) -> str:
        """The last place in the stream of ends."""
        last = cast(Any, self._redis.xrevrange(OUTBOX, count=1))
        return str(last[0][0]) if last else "0"

    # --- for `Webhooks` -------------------------------------------------------------------------

    def __len__(self) -> int:
        with self._redis.pipeline(transaction=False) as pipe:
            for host in self._hosts():
                pipe.zcard(f"{_RECEIVERS}:{host}")
            return sum(pipe.execute())

    def receivers(self) -> dict[Receiver, float]:
        """Each receiver that has deliveries, and the time when its first one is due."""
        hosts = self._hosts()
        with self._redis.pipeline(transaction=False) as pipe:
            for host in hosts:
                pipe.zrange(f"{_RECEIVERS}:{host}", 0, 0, withscores=True)
            found = pipe.execute()
        firsts = zip(hosts, found, strict=True)
        return {Receiver("", host): first[0][1] for host, first in firsts if first}

    def next(self, receiver: Receiver, busy: Collection[str]) -> Delivery | None:
        """The receiver's delivery that is due first, without the messages in `busy`."""
        key = f"{_RECEIVERS}:{receiver.host}"
        found = cast(Any, self._redis.zrange(key, 0, len(busy), withscores=True))
        for message_id, due_at in found:
            if message_id in busy:
                continue
            kept = cast(dict[str, str], self._redis.hgetall(f"upscaled:webhook:{message_id}"))
            if kept:  # else `requeue` has just deleted it
                return Delivery(
                    message_id,
                    kept["job_id"],
                    kept["url"],
                    kept["body"].encode(),
                    float(kept["created_at"]),
                    due_at,
                    int(kept["attempts"]),
                )
        return None

    def postpone(self, delivery: Delivery, due_at: float) -> None:
        """Record a failed attempt, and the time of the next one, unless the lease is lost."""
        args: list[Any] = [self._name, delivery.message_id, due_at]
        self.is_lost = not self._postpone([_SENDER], args)

    def remove(self, delivery: Delivery) -> None:
        """Record that the receiver has it, also if the lease is lost."""
        self._record_end("", delivery, {"state": "delivered", "attempts": delivery.attempts + 1})

    def give_up(self, delivery: Delivery, reason: str) -> None:
        """Record that it is sent no more, unless the lease is lost."""
        state = {"state": "given_up", "attempts": delivery.attempts + 1, "reason": reason}
        self.is_lost = not self._record_end(self._name, delivery, state)

    def _record_end(self, name: str, delivery: Delivery, state: Message) -> bool:
        line = encode_line(state).decode().rstrip("\n")
        return bool(self._end([_SENDER], [name, delivery.message_id, line]))

    def _hosts(self) -> list[str]:
        return sorted(cast(set[str], self._redis.smembers(_RECEIVERS)))


def read_ended(answer: Any) -> tuple[str | None, list[Receiver]]:
    """The last place in an answer of `XREAD` on the stream of ends, and the receivers of its
    webhooks."""
    entries = [entry for _, found in answer or () for entry in found]
    hosts = dict.fromkeys(fields["receiver"] for _, fields in entries if "receiver" in fields)
    return entries[-1][0] if entries else None, [Receiver("", host) for host in hosts]
