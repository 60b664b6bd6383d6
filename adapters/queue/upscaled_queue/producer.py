"""Submits jobs to a queue of either engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from upscaled_queue.job import QueuedJob
from upscaled_queue.record import Records
from upscaled_queue.settings import Settings


class Producer:
    """Fails at once if the queue cannot be reached: raises the errors of the engines' clients."""

    def __init__(self, settings: Settings, records: Records) -> None:
        self._settings = settings
        self._records = records
        if settings.url.engine == "celery":
            from upscaled_queue.celeryproducer import CeleryProducer

            self._celery = CeleryProducer(settings)

    def check(self) -> None:
        """Raise the errors of the engine's client if the queue cannot be reached. Redis needs no
        look, because the record is there too, or was asked before."""
        if not self._settings.url.is_redis:
            self._celery.check()

    def submit(self, jobs: Sequence[QueuedJob]) -> None:
        """Put jobs into their queues. A job that was submitted before is left as it is."""
        by_id: dict[str, QueuedJob] = {}
        for job in jobs:
            by_id.setdefault(job.job_id, job)
        new = [by_id[job_id] for job_id in self._records.not_given(list(by_id))]
        if self._settings.url.engine == "bullmq":
            from upscaled_queue import bullmq

            asyncio.run(bullmq.submit(self._settings, new))
        else:
            for job in new:
                self._celery.submit(job)
        # After the queue has them: a job that is marked and not queued would never run.
        for job in new:
            self._records.mark_given(job.job_id)

    def submit_again(self, job: QueuedJob) -> None:
        """Submit a job whose record was deleted."""
        if self._settings.url.engine == "bullmq":
            from upscaled_queue import bullmq

            asyncio.run(bullmq.remove(self._settings, job))
        self.submit([job])
