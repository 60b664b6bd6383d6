"""Whether a Redis may hold jobs: one that evicts keys loses them when its memory is full, and a
cluster, a Sentinel or an old Redis takes none."""

from __future__ import annotations

import re
import sys
from typing import Any, cast

from redis.exceptions import NoPermissionError

from upscaled_protocol.log import Logger
from upscaled_queue.outages import is_outage
from upscaled_queue.queueurl import QueueUrl, shown
from upscaled_queue.record import connect

# From this version on it has BLMOVE, by which a machine waits for a job.
_OLDEST = (6, 2)


class UnsafeRedisError(Exception):
    """Raised for a Redis that would lose jobs, or that takes none. `str(error)` says what to do."""


def check_server(url: QueueUrl, log: Logger | None = None) -> None:
    """Raises `UnsafeRedisError`, and `redis.RedisError` if a Redis cannot be reached."""
    for one in dict.fromkeys([url.broker, url.record]):
        if one.startswith("redis"):
            _check(one, log)


def _check(url: str, log: Logger | None) -> None:
    with connect(url) as server:
        # Not CONFIG GET, which hosted servers refuse.
        info = cast(dict[str, Any], server.info())
    if info.get("cluster_enabled"):
        raise UnsafeRedisError(
            f"the Redis at {shown(url)} is a cluster, on which neither Celery nor BullMQ nor the "
            "record works: use a single Redis, with replicas if you like"
        )
    if info.get("redis_mode") == "sentinel":
        raise UnsafeRedisError(
            f"the Redis at {shown(url)} is a Sentinel, which holds no jobs: give the address of "
            "the primary, by a name that follows it"
        )
    version = re.match(r"(\d+)\.(\d+)", str(info.get("redis_version", "")))
    if version is not None and (int(version[1]), int(version[2])) < _OLDEST:
        raise UnsafeRedisError(
            f"the Redis at {shown(url)} has version {info['redis_version']}: use 6.2 or later"
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise UnsafeRedisError(
            f"the Redis at {shown(url)} would lose jobs when its memory is full, because its "
            f"maxmemory-policy is {policy}: set maxmemory-policy to noeviction"
        )
    if log is not None and not info.get("aof_enabled"):
        log.log(
            "warning",
            "redis_without_aof",
            detail=f"the Redis at {shown(url)} loses jobs if it is killed: set appendonly to yes",
        )


def is_away(error: Exception) -> bool:
    """True if Redis or RabbitMQ cannot be reached, refuses this user, or takes nothing for now."""
    if "kombu" in sys.modules:
        from amqp.exceptions import AMQPError, MessageNacked
        from kombu.exceptions import OperationalError

        if isinstance(error, OperationalError | AMQPError | MessageNacked):
            return True
    is_refused = isinstance(error, NoPermissionError) or "DB index is out of range" in str(error)
    return is_refused or is_outage(error)
