"""Webhooks that are not delivered yet, and what keeps them."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol


class Receiver(NamedTuple):
    """One owner's webhooks to one host. `host` is `host:port`."""

    owner: str
    host: str


class Delivery(NamedTuple):
    """One webhook. message_id: the same for each attempt, and no other webhook's. due_at: when it
    is sent next, in seconds since 1970."""

    message_id: str
    job_id: str
    url: str
    body: bytes
    created_at: float
    due_at: float
    attempts: int = 0


class Deliveries(Protocol):
    """Keeps deliveries over a restart. The methods raise one of `outages` if the store fails."""

    outages: tuple[type[Exception], ...]

    def __len__(self) -> int:
        """How many have not ended."""

    def receivers(self) -> dict[Receiver, float]:
        """Each receiver that has deliveries, and the time when its first one is due."""

    def next(self, receiver: Receiver, busy: Collection[str]) -> Delivery | None:
        """The receiver's delivery that is due first, without the messages in `busy`."""

    def postpone(self, delivery: Delivery, due_at: float) -> None:
        """Record a failed attempt, and the time of the next one."""

    def remove(self, delivery: Delivery) -> None:
        """Record that the receiver has it."""

    def give_up(self, delivery: Delivery, reason: str) -> None:
        """Record that it is sent no more. reason: of the last attempt, without the URL."""
