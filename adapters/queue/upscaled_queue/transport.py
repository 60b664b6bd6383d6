"""kombu's Redis transport, for machines that hold their deliveries by a lease.

Of a lost connection nothing is put back and nothing acknowledged: what runs goes on and keeps its
lease, and everything else comes back when its lease is over, if only to find its record. kombu's
own way starts running jobs again elsewhere, or ends the worker with an `AttributeError`.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis


class Channel(redis.Channel):  # type: ignore[misc]
    """Knows that its connection may be gone."""

    do_restore = False

    @property
    def _is_lost(self) -> bool:
        return self.closed or self.connection is None or self.connection.client is None

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Unless the connection is gone."""
        if not self._is_lost:
            super().basic_ack(delivery_tag, multiple)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Unless the connection is gone."""
        if not self._is_lost:
            super().basic_reject(delivery_tag, requeue)

    def close(self) -> Any:
        """A second time too, after the connection has gone."""
        if not self._is_lost:
            super().close()


class Transport(redis.Transport):  # type: ignore[misc]
    """For Celery's `broker_transport`."""

    Channel = Channel
