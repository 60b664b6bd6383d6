"""Celery's consumer, with a pause before it connects again. It drops a message that no worker can
read, and that Celery would exit for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import consumer
from celery.worker.state import maybe_shutdown

from upscaled_protocol.backoff import backoff_s
from upscaled_queue.celerymessage import UnreadableMessageError, check_message

_LOG = logging.getLogger(__name__)

# From the second failure in a row on. Celery itself pauses only if Redis cannot be reached: one
# that takes no writes lets it connect, and refuses its queues at once.
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0
# How soon a signal ends a pause.
_LOOK_S = 0.1


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """For Celery's `worker_consumer`."""

    # Called with a queue and the reason if a message of it was dropped.
    on_dropped: Callable[[str, str], None] = staticmethod(lambda queue, reason: None)  # noqa: ARG005

    _failures = 0  # in a row

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        """As Celery's, but what cannot be read is dropped."""
        handle = super().create_task_handler(*args, **options)

        def handle_readable(message: Any) -> Any:
            try:
                check_message(message)
            except UnreadableMessageError as error:
                message.ack_log_error(_LOG, self.connection_errors)
                self.on_dropped(str(message.delivery_info.get("routing_key")), str(error))
                return None
            return handle(message)

        return handle_readable

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
