"""Celery's results in Redis, written also after an outage.

Celery repeats a write if Redis cannot be reached. If Redis takes no writes for now (its memory or
its disk is full), Celery gives up: the job's slot is then never free again, and its producer never
gets the result.
"""

from __future__ import annotations

from threading import Event

from celery.backends import redis

from upscaled_queue.outages import is_outage

# For Celery's `result_backend`, before the URL.
SCHEME = "upscaled_queue.celeryresults:ResultBackend+"


class MachineLeftError(Exception):
    """Raised when the machine must leave while the result cannot be written. The job comes again,
    and its record ends that delivery."""


class ResultBackend(redis.RedisBackend):  # type: ignore[misc]
    """given_up: from when on a machine that leaves does not wait for Redis; None in a process that
    is no machine."""

    given_up: Event | None = None

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """True for each outage that passes."""
        return is_outage(exc) or bool(super().exception_safe_to_retry(exc))

    def _sleep(self, amount: float) -> None:
        if self.given_up is None:
            super()._sleep(amount)
        elif self.given_up.wait(amount):
            raise MachineLeftError("the result cannot be written, and the machine leaves")
