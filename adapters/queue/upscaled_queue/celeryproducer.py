"""Celery's messages on their way into a queue, of Redis or RabbitMQ."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery

from upscaled_queue.celerysettings import celery_settings
from upscaled_queue.job import PIPELINE, Message, QueuedJob, level_of
from upscaled_queue.settings import URGENT, Settings

# The names of the tasks.
UPSCALE_TASK, PIPELINE_TASK = "upscaled.upscale", "upscaled.pipeline"
# How long RabbitMQ may take to answer a producer. Without memory it takes no job, and says nothing.
_RABBITMQ_TIMEOUT_S = 5
# Its answers for a message that no queue would get, and for an exchange that is not there.
_NO_ROUTE, _NOT_FOUND = 312, 404


def routed(settings: Settings, job: Mapping[str, Any], options: Message) -> Message:
    """The options of Celery's `apply_async` with the job's queue and priority."""
    priority = job.get("priority")
    priority = priority if isinstance(priority, int) else 0
    more: Message = {"priority": level_of(priority)}
    if not settings.url.is_redis:
        # A job that no queue would get is an error.
        more = {"mandatory": True, "confirm_timeout": _RABBITMQ_TIMEOUT_S}
    urgent = URGENT if not settings.url.is_redis and priority > 0 else ""
    return {
        **more,
        "queue": settings.queue_of(str(job.get("method"))) + urgent,
        # Celery's events and Flower show the arguments, and the job's URLs may have secrets.
        "argsrepr": "(...)",
        **options,
        # For `queue depth`, which shows how long the oldest job has waited.
        "headers": {**options.get("headers", {}), "given_at": time.time()},
    }


def sent(app: Celery, send: Callable[[], Any], queue: str, *, is_delayed: bool = False) -> Any:
    """Send a message. If RabbitMQ does not have its queue any more, or not yet what delays it, make
    that and send it again."""
    from amqp.exceptions import ChannelError

    try:
        return send()
    except ChannelError as error:
        if error.reply_code not in {_NO_ROUTE, _NOT_FOUND}:
            raise
    if is_delayed:
        from kombu.transport import native_delayed_delivery as delays

        with app.connection_for_write() as connection:
            own = app.amqp.queues[queue]
            own(connection.default_channel).declare()
            delays.declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
            delays.bind_queue_to_native_delayed_delivery_exchange(connection, own)
    # On a new connection, which declares the queue.
    return send()


class CeleryProducer:
    """Gives jobs to one queue. It has an app of its own, because `app` keeps the connections of the
    settings with which it was used first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app = Celery("upscaled", set_as_current=False)
        self._app.conf.update(celery_settings(settings))
        if not settings.url.is_redis:
            # To close the connection takes an answer too.
            limits = dict.fromkeys(("read_timeout", "write_timeout"), _RABBITMQ_TIMEOUT_S)
            self._app.conf.broker_transport_options |= limits

    def check(self) -> None:
        """Connect once. Raises the errors of Celery's clients."""
        with self._app.connection_for_write() as connection:
            connection.connect()

    def submit(self, job: QueuedJob) -> None:
        """Put a job into its queue. Raises the errors of Celery's clients at once."""
        options: Message = {"task_id": job.job_id, "retry": False, "ignore_result": False}
        task = PIPELINE_TASK if job.method == PIPELINE else UPSCALE_TASK
        options = routed(self._settings, job.fields, options)
        sent(
            self._app,
            lambda: self._app.send_task(task, (job.fields,), **options),
            options["queue"],
        )
