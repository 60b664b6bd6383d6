"""What the routes call: the one object between HTTP and the jobs."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from prometheus_client import Metric

from upscaled_http.archives import OpenArchives
from upscaled_http.body import MIB
from upscaled_http.bodymemory import BodyMemory
from upscaled_http.config import Settings
from upscaled_http.daemon import ChildDaemon
from upscaled_http.daemoncommand import daemon_command, daemon_environment
from upscaled_http.filingqueue import open_filing
from upscaled_http.healthreport import JobCounts, health_of
from upscaled_http.incoming import Upload
from upscaled_http.intake import Intake, SubmittedBatch
from upscaled_http.jobmetrics import JobMetrics
from upscaled_http.messages import Cleanup, Health, JobStatus, MethodStats, Stats
from upscaled_http.openjobs import OpenJobs
from upscaled_http.preview import Previews
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_http.records import Record
from upscaled_http.registry import Page, Registry
from upscaled_http.storage import Storage
from upscaled_http.submission import Submission, SubmissionReader
from upscaled_http.uploads import BodyReader
from upscaled_http.watching import Watchers
from upscaled_http.webhooks import open_webhooks
from upscaled_protocol.messages import HealthReport

# A daemon answers a question at once.
_ASK_TIMEOUT_S = 2.0
_HOUSEKEEPING_S = 5.0
# After this time without a message about a job, the daemon is asked whether the job has ended.
_SILENT_S = 30.0
_OPEN: tuple[JobStatus, ...] = ("queued", "processing")

_LOG = logging.getLogger(__name__)


class Submitted(NamedTuple):
    """A job. is_replayed: an earlier request with the same `Idempotency-Key` made it."""

    record: Record
    is_replayed: bool


class Service:
    """Owns the stores and the daemon. `start` comes first and `stop` last."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.storage = Storage(settings.storage)
        self.watchers = Watchers()
        self.reader = SubmissionReader(settings)
        self.previews = Previews(self.storage)
        self.archives = OpenArchives()
        self.bodies = BodyReader(
            self.storage.incoming, BodyMemory(settings.limits.max_request_mb * MIB)
        )
        self._began = time.monotonic()
        # No more jobs are taken, because the server stops.
        self.is_draining = False
        self._question: asyncio.Future[HealthReport | None] | None = None
        self._housekeeping: asyncio.Task[None] | None = None

    # --- start and stop ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the stores and start the daemon. Raises `StorageError` and `RegistryError`."""
        self.storage.open()
        self.registry = Registry(self.storage.registry)
        self.jobs = OpenJobs(self.storage, self.settings.storage, self.registry, self.watchers)
        open_ids = {record.job_id for record in self.jobs.records()}
        open_ids |= {filing.picture_id for filing in self.registry.filings.open()}
        self.storage.sweep(open_ids, self.registry.file_names())
        self.webhooks = open_webhooks(self.settings.webhooks, self.registry.deliveries)
        if self.webhooks is not None:
            self.jobs.on_recording_end.append(self.webhooks.handle_end)
            self.webhooks.sending.start()
        self.daemon = ChildDaemon(
            daemon_command(self.settings, self.storage),
            self.jobs,
            daemon_environment(self.settings),
        )
        self.jobs.attach(self.daemon)
        self._intake = Intake(
            self.settings,
            self,
            storage=self.storage,
            registry=self.registry,
            jobs=self.jobs,
            reader=self.reader,
        )
        self._metrics = JobMetrics(self.jobs, self.daemon, self.storage)
        self.filing = open_filing(self.settings.pipeline, self)
        self.daemon.start()
        if self.filing is not None:
            self.filing.start()
        self._housekeeping = asyncio.create_task(self._housekeep())

    async def drain(self) -> None:
        """Take no more jobs, let the daemon finish what it can in `grace_s`, and end every stream.
        Jobs that have not ended then continue at the next start. Every request but a submit is
        still answered."""
        if self.is_draining:
            return
        self.is_draining = True
        await self.daemon.stop(self.settings.server.grace_s)
        self.watchers.close()

    async def stop(self) -> None:
        """Drain, if that was not done yet, and close the stores. The last call."""
        await self.drain()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.gather(self._housekeeping, return_exceptions=True)
        if self.filing is not None:
            await self.filing.stop()
        self.jobs.catch_up()
        if self.webhooks is not None:
            await self.webhooks.sending.stop()
        self.registry.close()
        self.storage.close()

    @property
    def is_queue_full(self) -> bool:
        """True if `limits.max_queue` jobs have not ended."""
        return len(self.jobs) >= self.settings.limits.max_queue

    @property
    def is_disk_full(self) -> bool:
        """True if less than `storage.min_free_mb` is free."""
        return self.storage.is_full

    @property
    def is_live(self) -> bool:
        """True if a daemon runs or is being started."""
        return not self.daemon.has_failed

    @property
    def fault(self) -> str | None:
        """Why no daemon can ever run with these settings; None if one can."""
        return self.daemon.fault

    @property
    def is_ready(self) -> bool:
        """True if a job that is submitted now starts now."""
        is_up = self.daemon.state == "ready" and not self.is_draining
        return is_up and not (self.is_queue_full or self.is_disk_full)

    @property
    def idle_s(self) -> float:
        """Seconds without any job; 0 while there is one."""
        if len(self.jobs) or not (self.filing is None or self.filing.is_idle):
            return 0.0
        return time.monotonic() - self.jobs.last_end

    def reload(self) -> None:
        """Have the daemon replace its workers one by one."""
        self.daemon.reload()

    # --- jobs -----------------------------------------------------------------------------------

    async def submit(
        self,
        owner: str,
        submission: Submission,
        upload: Upload | None,
        *,
        key: str | None = None,
        job_id: str | None = None,
    ) -> Submitted:
        """Make one job, which takes over the upload's file. job_id: a new UUID, if the caller has
        to know it before. Raises `ProblemError`."""
        uploads = [upload] if upload is not None else []
        kept_id = self._intake.kept_id(owner, key, submission, uploads)
        if kept_id is not None:
            return Submitted(self.find(owner, kept_id), is_replayed=True)
        record = await self._intake.submit(owner, submission, upload, key=key, job_id=job_id)
        return Submitted(record, is_replayed=False)

    async def submit_batch(
        self, owner: str, submission: Submission, uploads: Sequence[Upload], *, key: str | None
    ) -> SubmittedBatch:
        """Make one job per picture. If one picture is refused, the others are jobs all the same.
        The same request with the same key makes those that are missing. Raises `ProblemError` if
        all are refused, with the reason of the first one."""
        kept_id = self._intake.kept_id(owner, key, submission, uploads)
        if kept_id is not None:
            return await self._intake.continue_batch(
                owner, submission, uploads, batch_id=kept_id, made=self.batch(owner, kept_id)
            )
        return await self._intake.submit_batch(owner, submission, uploads, key=key)

    def find(self, owner: str, job_id: str) -> Record:
        """A job of this owner. Raises `ProblemError` (not_found)."""
        record = self.jobs.find(job_id) or self.jobs.unrecorded(job_id)
        if record is None:
            record = self.registry.find(job_id)
        if record is None or record.owner != owner or record.is_deleted:
            raise ProblemError(
                HttpCode.NOT_FOUND,
                "There is no such job. Records are removed after "
                f"{self.settings.storage.keep_records_days:g} days.",
            )
        if record.status == "queued":
            self.jobs.renumber(record)
        return record

    def batch(self, owner: str, batch_id: str) -> list[Record]:
        """The jobs of a batch, in the order of the request. Raises `ProblemError` (not_found)."""
        records = [self._newest(record) for record in self.registry.batch(owner, batch_id)]
        if not records:
            raise ProblemError(HttpCode.NOT_FOUND, "There is no such batch.")
        return records

    def page(self, page: Page) -> list[Record]:
        """One owner's jobs, the newest first."""
        if page.status in _OPEN:
            records = [
                record
                for record in reversed(self.jobs.records())
                if record.owner == page.owner
                and record.status == page.status
                and not record.is_deleted
                and page.label in (None, record.label)
                and page.batch_id in (None, record.batch_id)
            ]
            ids = [record.job_id for record in records]
            begin = ids.index(page.before) + 1 if page.before in ids else 0
            return records[begin : begin + page.limit]
        return [self._newest(record) for record in self.registry.page(page)]

    def cancel(self, owner: str, job_id: str) -> Record:
        """Cancel a job. One that has ended stays as it is."""
        record = self.find(owner, job_id)
        if not record.has_ended:
            self.jobs.cancel(record)
        return record

    def delete(self, owner: str, job_id: str) -> None:
        """Cancel a job and remove its files and its record."""
        record = self.find(owner, job_id)
        if not record.has_ended:
            self.jobs.remove(record)
            self.watchers.notify(record)
            return
        if record.file_name is not None:
            self.storage.remove_result(record.file_name)
        self.registry.deliveries.forget(record.job_id)
        self.registry.remove(record.job_id)
        # Its end may not be recorded yet: then neither it nor its webhook will be.
        record.is_deleted = True
        self.watchers.notify(record)

    async def wait(self, record: Record, wait_s: float) -> bool:
        """Wait for a job's end, at most for this time. True if it has ended."""
        with self.watchers.job(record.job_id) as news, suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not (record.has_ended or self.watchers.is_closed):
                    await news.wait()
                    news.clear()
        return record.has_ended

    # --- the whole server -------------------------------------------------------------------------

    async def health(self) -> Health:
        """The answer of `/api/health`, with the workers' rows."""
        jobs = JobCounts(waiting=len(self.jobs) - self.jobs.running, open=len(self.jobs))
        return health_of(
            self.settings,
            self.daemon,
            await self._ask(),
            jobs,
            uptime_s=time.monotonic() - self._began,
            is_draining=self.is_draining,
            journal_fault=self.jobs.journal_fault,
        )

    def stats(self, owner: str) -> Stats:
        """Counts of the owner's jobs that still have a record; the queue and the disk of the whole
        server."""
        methods: dict[str, dict[str, Any]] = {}
        for outcome in self.registry.outcomes(owner):
            counts = methods.setdefault(outcome.method, {})
            counts[outcome.status] = outcome.jobs
            if outcome.status == "completed":
                counts["seconds"] = outcome.seconds
        return Stats(
            methods={method: MethodStats(**counts) for method, counts in methods.items()},
            queue_size=len(self.jobs) - self.jobs.running,
            in_flight=len(self.jobs),
            uploads_bytes=self.storage.uploads_bytes,
            results_bytes=self.storage.results_bytes,
        )

    def cleanup(self, owner: str, older_than_s: float) -> Cleanup:
        """Remove the results of the owner's jobs that ended at least this time ago."""
        records = self.registry.with_files(owner, time.time() - older_than_s)
        return self._remove_files(records)

    def note_download(self, record: Record) -> None:
        """A whole result was sent."""
        if record.retention != "delete_after_download":
            return
        due = time.time() + self.settings.storage.download_grace_s
        with suppress(sqlite3.Error):  # it stays until the next whole download
            # The download may have taken long: the result may have been removed meanwhile.
            newest = self.jobs.unrecorded(record.job_id) or self.registry.find(record.job_id)
            if newest is None or newest.file_name is None:
                return
            if newest.expires_at is None or due < newest.expires_at:
                newest.expires_at = due
                self.registry.update(newest)

    async def measure(self) -> None:
        """Update what `collect` shows."""
        self._metrics.report = await self._ask()

    def collect(self) -> Iterator[Metric]:
        """The metrics of the jobs, the pipeline and the webhooks."""
        yield from self._metrics.collect()
        if self.filing is not None:
            yield from self.filing.collect()
        if self.webhooks is not None:
            yield from self.webhooks.sending.collect()

    # --- parts ----------------------------------------------------------------------------------

    def _newest(self, record: Record) -> Record:
        """The job of a row as it is now: the row of an open job is behind it."""
        job_id = record.job_id
        return self.jobs.find(job_id) or self.jobs.unrecorded(job_id) or record

    async def _ask(self) -> HealthReport | None:
        """The daemon's report; None if it does not answer. Requests at the same time share one
        question."""
        if self._question is None:
            self._question = asyncio.ensure_future(self._ask_once())
        return await asyncio.shield(self._question)

    async def _ask_once(self) -> HealthReport | None:
        try:
            answer = await self.daemon.ask_health(_ASK_TIMEOUT_S)
            return None if answer is None else HealthReport.model_validate(answer)
        finally:
            self._question = None

    async def _housekeep(self) -> None:
        """Remove what has expired, every 5 s. If the disk is full, the next turn tries again."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            self.jobs.ask_for_lost_ends(_SILENT_S)
            try:
                self.remove_expired(time.time())
            except sqlite3.Error as error:
                _LOG.warning("the registry cannot be written: %s", error)

    def remove_expired(self, now: float) -> None:
        """Remove the results and the records that have expired. Raises `sqlite3.Error`."""
        self.jobs.catch_up()
        self._remove_files(self.registry.expired(now))
        self.registry.remove_ended(now - self.settings.storage.keep_records_days * 86400)

    def _remove_files(self, records: list[Record]) -> Cleanup:
        freed = 0
        for record in records:
            assert record.file_name is not None
            freed += self.storage.remove_result(record.file_name)
            record.file_name = None
            self.registry.update(record)
            self.watchers.notify(record)
        return Cleanup(removed_files=len(records), freed_bytes=freed)
