"""What waits and runs in the queue whose machines do the server's jobs."""

from __future__ import annotations

import argparse
import asyncio
from functools import lru_cache
from typing import Any

from upscaled_http.config import Settings
from upscaled_http.daemoncommand import queue_arguments
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_protocol.errors import ErrorCode
from upscaled_queue.command import parser
from upscaled_queue.job import PIPELINE
from upscaled_queue.queueurl import read_queue_url
from upscaled_queue.settings import Settings as QueueSettings


async def queue_depth(settings: Settings) -> dict[str, dict[str, Any]]:
    """The counts of each method. Raises `ProblemError`: not_found without a queue,
    upstream_unavailable if the queue does not answer."""
    queue = _queue_of(settings)
    if queue is None:
        raise ProblemError(
            HttpCode.NOT_FOUND,
            "This server has no queue: start it with --queue URL, or set UPSCALED_QUEUE_URL.",
        )
    # In a thread, because the engines' clients block.
    return await asyncio.to_thread(_count, queue)


def _queue_of(settings: Settings) -> QueueSettings | None:
    """The daemon's queue. Its methods and its lease are in the daemon's arguments."""
    url, record = settings.queue.url, settings.queue.record
    if url is None:
        return None
    options = _read_arguments(tuple(queue_arguments(settings)))
    return QueueSettings(
        url=read_queue_url(
            url.get_secret_value(), None if record is None else record.get_secret_value()
        ),
        methods=(*options.methods, PIPELINE) if settings.pipeline.bucket else options.methods,
        lease_s=options.lease_s,
        queue_prefix=settings.queue.prefix,
    )


@lru_cache(maxsize=1)
def _read_arguments(arguments: tuple[str, ...]) -> argparse.Namespace:
    """Once per server: the parser of all commands takes some milliseconds to build."""
    return parser().parse_args(arguments)


def _count(queue: QueueSettings) -> dict[str, dict[str, Any]]:
    # Here, because these modules need an extra.
    from upscaled_queue.depth import depth
    from upscaled_queue.record import Records
    from upscaled_queue.redisserver import is_away

    records = Records(queue.url.record, queue.keep_s)
    try:
        with records.redis:
            return depth(queue, records)
    except Exception as error:
        if not is_away(error):
            raise
        raise ProblemError(
            ErrorCode.UPSTREAM_UNAVAILABLE,
            "The queue does not answer: check that the Redis or the RabbitMQ of queue.url runs and "
            "can be reached.",
        ) from error
