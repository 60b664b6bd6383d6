"""The check that the server has room for one more job. It is made before a request's body is read,
and again after it, because other requests were served meanwhile.
"""

from __future__ import annotations

from typing import Protocol

from upscaled_http.problems import HttpCode, ProblemError
from upscaled_protocol.errors import ErrorCode

# About the time of one job: a client that comes back sooner is mostly refused again.
RETRY_AFTER_S = 5


class Room(Protocol):
    """What the decision depends on."""

    @property
    def is_draining(self) -> bool:
        """True if no more jobs are taken, because the server stops."""

    @property
    def is_queue_full(self) -> bool:
        """True if `limits.max_queue` jobs have not ended."""

    @property
    def is_disk_full(self) -> bool:
        """True if less than `storage.min_free_mb` is free."""


def check_room(room: Room, max_queue: int) -> None:
    """Raise `ProblemError` if no job can be taken now."""
    if room.is_draining:
        raise _refusal(
            ErrorCode.SHUTTING_DOWN,
            "The server is stopping and takes no more jobs; send this again later.",
        )
    if room.is_queue_full:
        raise _refusal(
            ErrorCode.QUEUE_FULL,
            f"{max_queue} jobs are waiting or running, which is this server's limit; send this "
            "again later.",
        )
    if room.is_disk_full:
        raise _refusal(
            HttpCode.INSUFFICIENT_STORAGE,
            "The server's disk is full; send this again later.",
        )


def _refusal(code: ErrorCode | HttpCode, detail: str) -> ProblemError:
    return ProblemError(code, detail, headers={"Retry-After": str(RETRY_AFTER_S)})
