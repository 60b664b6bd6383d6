"""Errors of Redis that pass: the same call may succeed later."""

from __future__ import annotations

import re

import redis

_CLASSES = (
    redis.ConnectionError,  # it is away, or it starts
    redis.TimeoutError,
    redis.exceptions.ReadOnlyError,  # a failover
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.OutOfMemoryError,  # `maxmemory` is reached
    OSError,
)
# Without a class in the client: it cannot write its file (a full disk), has too few replicas, or
# runs a long script.
_CODES = re.compile(r"(?:MISCONF|NOREPLICAS|BUSY) ")


def reason_of(error: BaseException) -> str:
    """What went wrong, as Redis says it. Before that the client puts a part of the pipeline's
    command, in which a URL of the job may stand."""
    return str(error).rpartition(" of pipeline caused error: ")[2] or type(error).__name__


def is_outage(error: BaseException) -> bool:
    """True if Redis cannot be reached, or refuses writes for now."""
    if isinstance(error, _CLASSES):
        return True
    return isinstance(error, redis.ResponseError) and _CODES.match(reason_of(error)) is not None
