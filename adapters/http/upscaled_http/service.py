"""What the routes do: the one object between HTTP and the jobs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import orjson
from prometheus_client import Metric

from upscaled_http.config import Settings
from upscaled_http.daemon import ChildDaemon
from upscaled_http.daemoncommand import daemon_command, daemon_environment
from upscaled_http.healthreport import JobCounts, health_of
from upscaled_http.jobmetrics import JobMetrics
from upscaled_http.messages import Cleanup, Health, JobStatus, MethodStats, Stats
from upscaled_http.openjobs import OpenJobs
from upscaled_http.pictures import picture_size
from upscaled_http.preview import Previews
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_http.records import Record
from upscaled_http.registry import KeptAnswer, Page, Registry
from upscaled_http.storage import Storage
from upscaled_http.submission import Submission, SubmissionReader
from upscaled_http.uploads import BodyReader, Upload, storage_problem
from upscaled_http.watching import Watchers
from upscaled_http.webhooks import open_webhooks
from upscaled_protocol.errors import ErrorCode
from upscaled_protocol.messages import HealthReport

# A daemon answers at once.
_ASK_TIMEOUT_S = 2.0
_HOUSEKEEPING_S = 5.0
# After so long without a word about a job, the daemon is asked whether it has ended.
_SILENT_S = 30.0
_OPEN: tuple[JobStatus, ...] = ("queued", "processing")

_LOG = logging.getLogger(__name__)


class Submitted(NamedTuple):
    """A job, and whether an earlier request with the same `Idempotency-Key` submitted it."""

    record: Record
    is_replayed: bool


class SubmittedBatch(NamedTuple):
    """The jobs of several pictures, and why others were refused."""

    batch_id: str
    records: list[Record]
    refused: list[ProblemError]
    is_replayed: bool


class Service:
    """Owns the stores and the daemon. `start` comes first and `stop` last."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.storage = Storage(settings.storage)
        self.watchers = Watchers()
        self.reader = SubmissionReader(settings)
        self.previews = Previews(self.storage.results)
        self.bodies = BodyReader(self.storage.incoming)
        self._began = time.monotonic()
        self._is_draining = False
        self._question: asyncio.Future[HealthReport | None] | None = None
        self._housekeeping: asyncio.Task[None] | None = None

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the stores and start the daemon. Raises `StorageError` and `RegistryError`."""
        self.storage.open()
        self.registry = Registry(self.storage.registry)
        self.jobs = OpenJobs(self.storage, self.settings.storage, self.registry, self.watchers)
        open_ids = {record.job_id for record in self.jobs.records()}
        self.storage.sweep(open_ids, self.registry.file_names())
        self.webhooks = open_webhooks(self.settings.webhooks, self.registry.deliveries)
        if self.webhooks is not None:
            self.jobs.on_recording_end.append(self.webhooks.handle_end)
            self.webhooks.start()
        self.daemon = ChildDaemon(
            daemon_command(self.settings, self.storage), self.jobs, daemon_environment()
        )
        self.jobs.attach(self.daemon)
        self._metrics = JobMetrics(self.jobs, self.daemon, self.storage)
        self.daemon.start()
        self._housekeeping = asyncio.create_task(self._keep_house())

    async def drain(self) -> None:
        """Take no more jobs, let the daemon finish what it can in `grace_s`, end every stream. What
        is left goes on at the next start. Everything but a submit is still answered."""
        if self._is_draining:
            return
        self._is_draining = True
        await self.daemon.stop(self.settings.server.grace_s)
        self.watchers.close()

    async def stop(self) -> None:
        """Drain, if that was not done yet, and close the stores. No request may come after it."""
        await self.drain()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.gather(self._housekeeping, return_exceptions=True)
        self.jobs.catch_up()
        if self.webhooks is not None:
            await self.webhooks.stop()
        self.registry.close()
        self.storage.close()

    @property
    def is_draining(self) -> bool:
        """No more jobs are taken, because the server stops."""
        return self._is_draining

    @property
    def is_queue_full(self) -> bool:
        """`limits.max_queue` jobs have not ended."""
        return len(self.jobs) >= self.settings.limits.max_queue

    @property
    def is_disk_full(self) -> bool:
        """Less than `storage.min_free_mb` is free."""
        return self.storage.is_full

    @property
    def is_live(self) -> bool:
        """A daemon lives or is being started."""
        return not self.daemon.has_failed

    @property
    def is_ready(self) -> bool:
        """A job that is submitted now starts now."""
        is_up = self.daemon.state == "ready" and not self._is_draining
        return is_up and not (self.is_queue_full or self.is_disk_full)

    @property
    def idle_s(self) -> float:
        """Seconds without any job; 0 while there is one."""
        return 0.0 if len(self.jobs) else time.monotonic() - self.jobs.last_end

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
    ) -> Submitted:
        """Have one job done. The upload's file is taken over. Raises `ProblemError`."""
        if key is None:
            return Submitted(await self._submit(owner, submission, upload), is_replayed=False)
        fingerprint = _fingerprint(submission, [upload] if upload else [])
        kept_id = self._kept(owner, key, fingerprint)
        if kept_id is not None:
            return Submitted(self.find(owner, kept_id), is_replayed=True)
        job_id = str(uuid.uuid4())
        answer = (key, KeptAnswer(fingerprint, job_id))
        record = await self._submit(owner, submission, upload, job_id=job_id, answer=answer)
        return Submitted(record, is_replayed=False)

    async def submit_batch(
        self, owner: str, submission: Submission, uploads: Sequence[Upload], *, key: str | None
    ) -> SubmittedBatch:
        """Have the same done to several pictures. One that is refused leaves the others as they
        are. Raises `ProblemError` if all are refused, with the first one's reason."""
        fingerprint = _fingerprint(submission, uploads) if key is not None else b""
        if key is not None and (kept_id := self._kept(owner, key, fingerprint)) is not None:
            return SubmittedBatch(kept_id, self.batch(owner, kept_id), [], is_replayed=True)
        batch_id = str(uuid.uuid4())
        answer = None if key is None else (key, KeptAnswer(fingerprint, batch_id))
        records: list[Record] = []
        refused: list[ProblemError] = []
        for upload in uploads:
            try:
                record = await self._submit(
                    owner,
                    submission,
                    upload,
                    batch_id=batch_id,
                    answer=None if records else answer,
                )
            except ProblemError as error:
                refused.append(error.named(upload.name))
            else:
                records.append(record)
        if not records:
            raise refused[0]
        return SubmittedBatch(batch_id, records, refused, is_replayed=False)

    async def _submit(
        self,
        owner: str,
        submission: Submission,
        upload: Upload | None,
        *,
        job_id: str | None = None,
        batch_id: str | None = None,
        answer: tuple[str, KeptAnswer] | None = None,
    ) -> Record:
        self.check_may_submit()
        size = None
        if upload is not None:
            size = picture_size(upload.path, self.settings.limits.max_input_megapixels)
        planned = self.reader.planned_size(submission.model, size)
        record = self._record_of(owner, submission, upload, job_id or str(uuid.uuid4()))
        record.input_size, record.planned_size, record.batch_id = size, planned, batch_id
        if upload is not None:
            try:
                os.rename(upload.path, self.storage.upload(record.job_id))  # noqa: PTH104
            except OSError as error:
                raise storage_problem(error) from None
        try:
            await self.jobs.add(record, answer)
        except BaseException:
            if self.jobs.find(record.job_id) is None:
                self.storage.remove_upload(record.job_id)
            raise
        return record

    def check_may_submit(self) -> None:
        """Raise `ProblemError` if no job can be taken now."""
        if self._is_draining:
            raise ProblemError(
                ErrorCode.SHUTTING_DOWN, "The server is going down; try again in a minute."
            )
        if self.is_queue_full:
            raise ProblemError(
                ErrorCode.QUEUE_FULL,
                f"{self.settings.limits.max_queue} jobs wait or run, which is the limit; try "
                "again later.",
                headers={"Retry-After": "5"},
            )

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
            record.position = self.jobs.position(record)
        return record

    def batch(self, owner: str, batch_id: str) -> list[Record]:
        """The jobs of a batch, in the order of the request. Raises `ProblemError` (not_found)."""
        records = [self._newest(record) for record in self.registry.batch(owner, batch_id)]
        if not records:
            raise ProblemError(HttpCode.NOT_FOUND, "There is no such batch.")
        return records

    def page(self, page: Page) -> list[Record]:
        """Jobs of one owner, the newest first."""
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
        """Have a job ended; no harm is done to one that has ended."""
        record = self.find(owner, job_id)
        if not record.has_ended:
            self.jobs.cancel(record)
        return record

    def delete(self, owner: str, job_id: str) -> None:
        """Cancel a job and remove its files and its record."""
        record = self.find(owner, job_id)
        if not record.has_ended:
            self.jobs.remove(record)
            return
        if record.file_name is not None:
            self.storage.remove_result(record.file_name)
        self.registry.deliveries.remove(record.job_id)
        self.registry.remove(record.job_id)

    async def wait(self, record: Record, wait_s: float) -> bool:
        """Wait for a job's end, at most for so long; whether it has ended."""
        with self.watchers.job(record.job_id) as news, suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not (record.has_ended or self.watchers.is_closed):
                    await news.wait()
                    news.clear()
        return record.has_ended

    # --- the whole ------------------------------------------------------------------------------

    async def health(self) -> Health:
        """The answer of `/api/health`, with the workers' rows."""
        jobs = JobCounts(waiting=len(self.jobs) - self.jobs.running, open=len(self.jobs))
        return health_of(
            self.settings,
            self.daemon,
            await self._ask(),
            jobs,
            uptime_s=time.monotonic() - self._began,
            is_draining=self._is_draining,
            journal_fault=self.jobs.journal_fault,
        )

    async def stats(self, owner: str) -> Stats:
        """Counts of the owner's jobs since the records begin; the queue and the disk as a whole."""
        storage, methods = self.storage, dict[str, dict[str, Any]]()
        for outcome in self.registry.outcomes(owner):
            counts = methods.setdefault(outcome.method, {})
            counts[outcome.status] = outcome.jobs
            if outcome.status == "completed":
                counts["seconds"] = outcome.seconds
        return Stats(
            methods={method: MethodStats(**counts) for method, counts in methods.items()},
            queue_size=len(self.jobs) - self.jobs.running,
            in_flight=len(self.jobs),
            uploads_bytes=await asyncio.to_thread(storage.used_bytes, storage.uploads),
            results_bytes=await asyncio.to_thread(storage.used_bytes, storage.results),
        )

    def cleanup(self, owner: str, older_than_s: float) -> Cleanup:
        """Remove the results of the owner's jobs that ended so long ago."""
        records = self.registry.with_files(owner, time.time() - older_than_s)
        return self._remove_files(records)

    def note_download(self, record: Record) -> None:
        """A whole result was sent."""
        if record.retention != "delete_after_download" or record.file_name is None:
            return
        due = time.time() + self.settings.storage.download_grace_s
        if record.expires_at is None or due < record.expires_at:
            record.expires_at = due
            with suppress(sqlite3.Error):  # it stays until the next whole download
                self.registry.update(record)

    async def measure(self) -> None:
        """Look at what `collect` is to show."""
        await self._metrics.measure(await self._ask())

    def collect(self) -> Iterator[Metric]:
        """What the jobs and the webhooks add to the metrics."""
        yield from self._metrics.collect()
        if self.webhooks is not None:
            yield from self.webhooks.collect()

    # --- parts ----------------------------------------------------------------------------------

    def _newest(self, record: Record) -> Record:
        """The job of a row as it is now: an open one is further than its row."""
        job_id = record.job_id
        return self.jobs.find(job_id) or self.jobs.unrecorded(job_id) or record

    def _kept(self, owner: str, key: str, fingerprint: bytes) -> str | None:
        """What this key stands for; None if it was not sent before."""
        kept = self.registry.kept_answer(owner, key)
        if kept is None:
            return None
        if kept.fingerprint != fingerprint:
            raise ProblemError(
                HttpCode.IDEMPOTENCY_MISMATCH,
                "This Idempotency-Key was sent with another request: use a new key for each job.",
            )
        return kept.answer_id

    def _record_of(
        self, owner: str, submission: Submission, upload: Upload | None, job_id: str
    ) -> Record:
        config = dict(submission.config)
        if upload is not None and submission.takes_picture:
            config["image_path"] = str(self.storage.upload(job_id))
        if submission.suffix is not None:
            config["output_path"] = str(self.storage.result(f"{job_id}.{submission.suffix}"))
        job = {
            "job_id": job_id,
            "method": submission.method,
            "config": config,
            "timeout_s": submission.timeout_s,
        }
        return Record(
            job_id=job_id,
            owner=owner,
            method=submission.method,
            created_at=time.time(),
            line=orjson.dumps(job) + b"\n",
            label=submission.label,
            name=upload.name if upload is not None else None,
            retention=submission.retention,
            webhook=submission.webhook,
        )

    async def _ask(self) -> HealthReport | None:
        """The daemon's report. All who ask at once share one question."""
        if self._question is None:
            self._question = asyncio.ensure_future(self._ask_once())
        return await asyncio.shield(self._question)

    async def _ask_once(self) -> HealthReport | None:
        try:
            answer = await self.daemon.ask_health(_ASK_TIMEOUT_S)
            return None if answer is None else HealthReport.model_validate(answer)
        finally:
            self._question = None

    async def _keep_house(self) -> None:
        """Remove what has expired. A disk that is full is tried again."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            self.jobs.ask_for_lost_ends(_SILENT_S)
            try:
                self.keep_house(time.time())
            except sqlite3.Error as error:
                _LOG.warning("the registry cannot be written: %s", error)

    def keep_house(self, now: float) -> None:
        """Remove the results and the records whose time is over. Raises `sqlite3.Error`."""
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
        return Cleanup(removed_files=len(records), freed_bytes=freed)


def _fingerprint(submission: Submission, uploads: Sequence[Upload]) -> bytes:
    """What makes two requests the same."""
    fields = {
        "method": submission.method,
        "config": submission.config,
        "timeout_s": submission.timeout_s,
        "label": submission.label,
        "retention": submission.retention,
        "webhook": submission.webhook,
    }
    digest = hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS))
    for upload in uploads:
        digest.update(upload.sha256 or b"")
    return digest.digest()
