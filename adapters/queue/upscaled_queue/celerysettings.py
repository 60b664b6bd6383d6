"""Celery's settings, on Redis or RabbitMQ. Without any one of them a trial lost jobs, or ran them
again and again."""

from __future__ import annotations

import math
from typing import Any

from upscaled_queue.celeryresults import SCHEME
from upscaled_queue.settings import Settings

# The longest pause before a result is written again.
_LONGEST_PAUSE_S = 1.0
# The time limit of a command to Redis. The wait for a message has none: the event loop does it.
_SOCKET_TIMEOUT_S = 10


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's configuration for these settings, under Celery's own names."""
    common: dict[str, Any] = {
        "broker_url": settings.url.broker,
        "result_backend": SCHEME + settings.url.record,
        "result_expires": settings.keep_s,
        # A result that cannot be written would be raised, and the message acknowledged.
        "result_backend_always_retry": True,
        "result_backend_max_retries": math.inf,
        "result_backend_max_sleep_between_retries_ms": _LONGEST_PAUSE_S * 1000,
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        # The daemon's processes isolate jobs. In a prefork pool each child would load a model, and
        # CUDA does not work after a fork.
        "worker_pool": "threads",
        "worker_concurrency": settings.slots,
        "worker_consumer": "upscaled_queue.consumer:Consumer",
        # Acknowledge after the end, because else a killed machine's jobs are lost.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A running job keeps its lease while the connection is lost.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_prefetch_multiplier": 1,
        # With late acknowledgement the prefetch count grows, and the worker holds jobs that others
        # could run.
        "worker_disable_prefetch": settings.url.is_redis,
        # Saves one write per job, because the record has what runs.
        "task_track_started": False,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": settings.queue_of("esrgan"),
    }
    return {**common, **(_redis(settings) if settings.url.is_redis else _rabbitmq())}


def _redis(settings: Settings) -> dict[str, Any]:
    return {
        # A Redis that takes no writes for now is asked again, also while the worker starts.
        "broker_channel_error_retry": True,
        "task_default_queue_type": "classic",
        "task_create_missing_queue_type": "classic",
        "broker_transport": "upscaled_queue.transport:Transport",
        "broker_transport_options": {
            "visibility_timeout": settings.lease_s,
            # By default, abandoned messages are searched for every 100 s, and a machine that is
            # killed during a search keeps the others from searching for 300 s.
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": max(1, math.ceil(settings.lease_s / 4)),
            "queue_order_strategy": "priority",
            "priority_steps": list(range(10)),
            "socket_timeout": _SOCKET_TIMEOUT_S,
            "socket_connect_timeout": _SOCKET_TIMEOUT_S,
            "socket_keepalive": True,
        },
    }


def _rabbitmq() -> dict[str, Any]:
    # No x-delivery-limit: it also counts jobs that are given back, and drops those above the limit.
    # The record counts deliveries.
    return {
        "task_default_queue_type": "quorum",
        "task_create_missing_queue_type": "quorum",
        # With direct exchanges a machine holds a job with a `countdown` in one of its slots.
        "task_default_exchange_type": "topic",
        "task_create_missing_queue_exchange_type": "topic",
        "broker_heartbeat": 10,
        "broker_transport": None,
        "broker_transport_options": {"confirm_publish": True},
    }
