"""The webhooks of jobs and pictures that have ended: messages, recorded with the ends."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from pydantic import BaseModel

from upscaled_http.config import WebhookSettings
from upscaled_http.deliveries import RegistryDeliveries
from upscaled_http.messages import EventType, JobStatus, WebhookEvent
from upscaled_http.records import Record
from upscaled_webhooks.deliveries import Delivery, Receiver
from upscaled_webhooks.receivers import Poster
from upscaled_webhooks.signatures import Signer
from upscaled_webhooks.webhooks import Webhooks
from upscaled_webhooks.webhookurl import host_of

_LOG = logging.getLogger(__name__)

_EVENT_TYPES: dict[JobStatus, EventType] = {
    "completed": "job.completed",
    "failed": "job.failed",
    "cancelled": "job.cancelled",
}


def open_webhooks(settings: WebhookSettings, deliveries: RegistryDeliveries) -> JobWebhooks | None:
    """The server's webhooks; None without a secret, because then none are sent."""
    if settings.secret is None:
        if waiting := len(deliveries):
            _LOG.warning("%d webhooks wait, because webhooks.secret is not set", waiting)
        return None
    signer = Signer(settings.secret.get_secret_value())
    return JobWebhooks(deliveries, Webhooks(deliveries, signer, Poster(settings.destinations)))


class JobWebhooks:
    """The webhooks of the server's jobs and pictures, and what sends them."""

    def __init__(self, deliveries: RegistryDeliveries, webhooks: Webhooks) -> None:
        self.sending = webhooks
        self._deliveries = deliveries

    def handle_end(self, record: Record) -> None:
        """Record the webhook of a job that has ended, if it has one. Call it in the transaction
        that records the end. Raises `sqlite3.Error`."""
        if record.webhook is None:
            return
        job = record.job()
        event = WebhookEvent(
            type=_EVENT_TYPES[job.status],
            timestamp=job.finished_at or datetime.fromtimestamp(self.sending.clock.now(), UTC),
            data=job,
        )
        self.add(record.owner, record.webhook, job.job_id, event)

    def add(self, owner: str, url: str, event_id: str, event: BaseModel) -> None:
        """Record a webhook, in the transaction that records its event. Raises `sqlite3.Error`."""
        now = self.sending.clock.now()
        receiver = Receiver(owner, str(host_of(url)))
        body = event.model_dump_json(exclude_none=True).encode()
        self._deliveries.add(receiver, Delivery(event_id, event_id, url, body, now, due_at=now))
        # It looks after the transaction.
        self.sending.wake(receiver)
