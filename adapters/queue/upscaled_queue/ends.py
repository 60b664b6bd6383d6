"""How a machine's deliveries end: in the record, by webhook, in the log and in the counts.

Ended       the job has its end, which is in the record: the engine acknowledges the delivery
GivenBack   the job has no end yet: the engine puts it back into the queue
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from upscaled_protocol.backoff import backoff_s
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.log import Logger
from upscaled_queue.job import (
    Message,
    QueuedJob,
    cancelled_event,
    error_event,
    poisoned_event,
    read_job,
)
from upscaled_queue.record import RecordLostError, Records, Start
from upscaled_queue.settings import Settings
from upscaled_queue.webhooks import webhook_of

# The pause before another try of a job that failed: doubled with each delivery.
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0


@dataclass(frozen=True)
class Ended:
    """The job has its end. event: the one in the record, which may be of another delivery."""

    event: Message


@dataclass(frozen=True)
class GivenBack:
    """Put the job back into the queue, to be delivered after this time at the earliest."""

    delay_s: float = 0.0


Outcome = Ended | GivenBack


class Ends:
    """Ends deliveries, from any thread. The methods that write the record raise
    `RecordLostError`."""

    def __init__(self, settings: Settings, records: Records, log: Logger) -> None:
        self._settings = settings
        self._records = records
        self._log = log
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each thing has happened, for the metrics."""
        with self._lock:
            return self._counts.copy()

    def count(self, what: str) -> None:
        """Add one."""
        with self._lock:
            self._counts[what] += 1

    def refuse(self, fields: object, error: JobError) -> Ended:
        """End a message that is no job. Without an id there is nothing to keep a record of."""
        job_id = error.job_id
        self._log.log("warning", "job_refused", job_id=job_id, detail=error.message)
        if job_id is None:
            return Ended(error.message_fields())
        given: Mapping[str, Any] = fields if isinstance(fields, Mapping) else {}
        event, method = error_event(error, job_id), str(given.get("method"))
        webhook = webhook_of(given.get("webhook_url"), method, event, self._settings.webhooks)
        return Ended(self._records.settle(job_id, method, event, dict(given), webhook))

    def cancel(self, fields: object, when: str) -> None:
        """End a message that its engine does not deliver. when: completes the sentence."""
        try:
            job = read_job(fields)
        except JobError as error:
            self.refuse(fields, error)
        else:
            self.settle(job, cancelled_event(job, when))

    def without_start(self, job: QueuedJob, start: Start) -> Outcome:
        """The outcome of a delivery that must not run."""
        if start.kind == "early":
            return GivenBack(start.number)
        if start.kind == "cancelled":
            return self.settle(job, cancelled_event(job, "before it started"))
        if start.kind == "poisoned":
            return self.settle(job, poisoned_event(job, int(start.number)))
        self.count("fenced")
        return Ended(start.record)

    def settle_or_retry(
        self, job: QueuedJob, token: str, event: Message, deliveries: int
    ) -> Outcome:
        """End the job as the daemon did; or give it back, if another delivery may succeed."""
        # A daemon whose options are wrong answers `worker_crashed`, which is not retryable there;
        # another machine has options of its own.
        code = event.get("code")
        may_succeed = event.get("retryable") is True or code == ErrorCode.WORKER_CRASHED
        if not may_succeed or deliveries >= self._settings.max_deliveries:
            return self.settle(job, event)
        delay_s = backoff_s(deliveries, _FIRST_RETRY_S, _LAST_RETRY_S)
        self._log.log("warning", "job_given_back", job_id=job.job_id, code=code)
        self._records.give_back(job, token, delay_s=delay_s, is_counted=True)
        return GivenBack(delay_s)

    def settle(self, job: QueuedJob, event: Message) -> Ended:
        """Record the job's end, unless the record has one already."""
        webhook = webhook_of(job.webhook_url, job.method, event, self._settings.webhooks)
        recorded = self._records.settle(job.job_id, job.method, event, job.fields, webhook)
        if recorded is not event:
            self.count("fenced")
        self.count(f"ended_{event['type']}")
        self._log.log(
            "info",
            "job_ended",
            job_id=job.job_id,
            outcome=event["type"],
            code=event.get("code"),
            traceparent=job.traceparent,
        )
        return Ended(recorded)

    def give_back(self, job: QueuedJob, token: str) -> GivenBack:
        """Give back a job that this machine does not finish, uncharged. Never raises."""
        self.count("given_back")
        self._log.log("info", "job_given_back", job_id=job.job_id)
        # Without this the job comes back too, but only at the end of its lease.
        with contextlib.suppress(RecordLostError):
            self._records.give_back(job, token)
        return GivenBack()
