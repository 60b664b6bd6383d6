"""Celery's consumer, with a pause before it connects again."""

from __future__ import annotations

import time
from typing import Any

from celery.worker.consumer import consumer
from celery.worker.state import maybe_shutdown

from upscaled_protocol.backoff import backoff_s

# From the second failure in a row on. Celery itself pauses only if Redis cannot be reached: one
# that takes no writes lets it connect, and refuses its queues at once.
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0
# How soon a signal ends a pause.
_LOOK_S = 0.1


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """For Celery's `worker_consumer`."""

    _failures = 0  # in a row

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Pause, unless the connection has worked until now. `WorkerShutdown` ends the pause."""
        super().on_connection_error_after_connected(exc)
        if self._failures:
            # Within its lease, or the pulse takes the machine for stuck once Redis is back.
            lease_s = self.app.conf.broker_transport_options.get("visibility_timeout")
            longest_s = min(_LONGEST_PAUSE_S, lease_s or _LONGEST_PAUSE_S)
            end = time.monotonic() + backoff_s(self._failures, _FIRST_PAUSE_S, longest_s)
            while (left_s := end - time.monotonic()) > 0:
                maybe_shutdown()
                time.sleep(min(left_s, _LOOK_S))
        self._failures += 1

    def on_ready(self) -> Any:
        """The queues are there, and messages may come."""
        self._failures = 0
        return super().on_ready()
