"""kombu's Redis transport, for machines that hold their deliveries by a lease.

A connection that closes puts back what does not run here. What runs goes on over a lost connection
and keeps its lease; its acknowledgement may be lost, and then its record ends the next delivery.
kombu's own way starts running jobs again elsewhere, or ends the worker with an `AttributeError`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from kombu.transport import redis


class QoS(redis.QoS):
    """Knows what runs here, by delivery tags."""

    running: Callable[[], Collection[str]] = staticmethod(lambda: ())

    def restore_unacked(self, client: Any = None) -> None:
        """Put back what does not run here."""
        for tag in self.running():
            self._delivered.pop(tag, None)
        super().restore_unacked(client)  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    """Knows that its connection may be gone."""

    QoS = QoS

    @property
    def _is_lost(self) -> bool:
        return self.closed or self.connection is None or self.connection.client is None

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Unless the connection is gone."""
        if not self._is_lost:
            super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Unless the connection is gone."""
        if not self._is_lost:
            super().basic_reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """A second time too, after the connection has gone."""
        if not self._is_lost:
            super().close()  # type: ignore[no-untyped-call]


class Transport(redis.Transport):
    """For Celery's `broker_transport`."""

    Channel = Channel
