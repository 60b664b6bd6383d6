"""From a checked request to an open job: the limits, the picture's size, its file, its record."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import orjson

from upscaled_http.admission import Room, check_room
from upscaled_http.config import Settings
from upscaled_http.incoming import Upload, name_in, storage_problem
from upscaled_http.openjobs import OpenJobs
from upscaled_http.pictures import picture_size
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_http.records import Record
from upscaled_http.registry import KeptAnswer, Registry
from upscaled_http.storage import Storage
from upscaled_http.submission import Submission, SubmissionReader


class SubmittedBatch(NamedTuple):
    """The jobs of several pictures, and why others were refused. is_replayed: an earlier request
    with the same `Idempotency-Key` made the jobs."""

    batch_id: str
    records: list[Record]
    refused: list[ProblemError]
    is_replayed: bool = False


class Intake:
    """Makes jobs. `OpenJobs` has them from then on."""

    def __init__(
        self,
        settings: Settings,
        room: Room,
        *,
        storage: Storage,
        registry: Registry,
        jobs: OpenJobs,
        reader: SubmissionReader,
    ) -> None:
        self._settings = settings
        self._room = room
        self._storage = storage
        self._registry = registry
        self._jobs = jobs
        self._reader = reader
        self._in_hand: set[str] = set()  # batches whose jobs are being made

    def kept_id(
        self, owner: str, key: str | None, submission: Submission, uploads: Sequence[Upload]
    ) -> str | None:
        """The job or the batch that an earlier request with this `Idempotency-Key` made. Raises
        `ProblemError` if that request was another one."""
        kept = self._registry.kept_answer(owner, key) if key is not None else None
        if kept is None:
            return None
        if kept.fingerprint != _fingerprint(submission, uploads):
            raise ProblemError(
                HttpCode.IDEMPOTENCY_MISMATCH,
                "This Idempotency-Key was sent with another request: use a new key for each job.",
            )
        return kept.answer_id

    async def submit(
        self,
        owner: str,
        submission: Submission,
        upload: Upload | None,
        *,
        key: str | None,
        job_id: str | None = None,
    ) -> Record:
        """Make one job. job_id: a new UUID, if the caller has to know it before. Raises
        `ProblemError`."""
        job_id = job_id or str(uuid.uuid4())
        answer = _answer(key, job_id, submission, [upload] if upload is not None else [])
        return await self._submit(owner, submission, upload, job_id, answer)

    async def submit_batch(
        self, owner: str, submission: Submission, uploads: Sequence[Upload], *, key: str | None
    ) -> SubmittedBatch:
        """Make one job per picture. If one is refused, the others are made all the same. Raises
        `ProblemError` if all are refused, with the reason of the first one."""
        batch_id = str(uuid.uuid4())
        answer = _answer(key, batch_id, submission, uploads)
        batch = SubmittedBatch(batch_id, [], [])
        await self._fill(batch, owner, submission, uploads, made={}, answer=answer)
        if not batch.records:
            raise batch.refused[0]
        return batch

    async def continue_batch(
        self,
        owner: str,
        submission: Submission,
        uploads: Sequence[Upload],
        *,
        batch_id: str,
        made: Sequence[Record],
    ) -> SubmittedBatch:
        """The same batch again: make the jobs that it lacks, because they were refused, or because
        the server was killed meanwhile."""
        if batch_id in self._in_hand:  # the first request is not answered yet
            return SubmittedBatch(batch_id, list(made), [], is_replayed=True)
        batch = SubmittedBatch(batch_id, [], [], is_replayed=True)
        known = {record.job_id: record for record in made}
        await self._fill(batch, owner, submission, uploads, made=known, answer=None)
        return batch

    async def _fill(
        self,
        batch: SubmittedBatch,
        owner: str,
        submission: Submission,
        uploads: Sequence[Upload],
        *,
        made: Mapping[str, Record],
        answer: tuple[str, KeptAnswer] | None,
    ) -> None:
        self._in_hand.add(batch.batch_id)
        try:
            for number, upload in enumerate(uploads):
                # The same picture of the same batch has the same id.
                job_id = str(uuid.uuid5(uuid.UUID(batch.batch_id), str(number)))
                if job_id in made:
                    batch.records.append(made[job_id])
                    continue
                if self._registry.find(job_id) is not None:
                    continue  # the client has removed it
                try:
                    record = await self._submit(
                        owner,
                        submission,
                        upload,
                        job_id,
                        None if batch.records else answer,
                        batch_id=batch.batch_id,
                    )
                except ProblemError as error:
                    batch.refused.append(error.named(upload.name))
                else:
                    batch.records.append(record)
        finally:
            self._in_hand.discard(batch.batch_id)

    async def _submit(
        self,
        owner: str,
        submission: Submission,
        upload: Upload | None,
        job_id: str,
        answer: tuple[str, KeptAnswer] | None,
        *,
        batch_id: str | None = None,
    ) -> Record:
        check_room(self._room, self._settings.limits.max_queue)
        size = name = None
        if upload is not None:
            name = upload.name
            size = picture_size(upload.path, self._settings.limits.max_input_megapixels)
        elif submission.image_url is not None:
            name = name_in(submission.image_url)
        record = Record(
            job_id=job_id,
            owner=owner,
            method=submission.method,
            created_at=time.time(),
            line=self._line(submission, job_id, has_upload=upload is not None),
            batch_id=batch_id,
            label=submission.label,
            name=name,
            priority=submission.priority,
            retention=submission.retention,
            webhook=submission.webhook,
            input_size=size,
            planned_size=self._reader.planned_size(submission.model, size),
        )
        if upload is not None:
            try:
                self._storage.take_upload(upload.path, job_id, upload.size_bytes)
            except OSError as error:
                raise storage_problem(error) from None
        try:
            await self._jobs.add(record, answer)
        except BaseException:
            if self._jobs.find(job_id) is None:
                self._storage.remove_upload(job_id)
            raise
        return record

    def _line(self, submission: Submission, job_id: str, *, has_upload: bool) -> bytes:
        """The job's line for the daemon."""
        config = dict(submission.config)
        if has_upload and submission.takes_picture:
            config["image_path"] = str(self._storage.upload(job_id))
        if submission.suffix is not None:
            config["output_path"] = str(self._storage.result(f"{job_id}.{submission.suffix}"))
        job = {
            "job_id": job_id,
            "method": submission.method,
            "config": config,
            "priority": submission.priority,
            "timeout_s": submission.timeout_s,
        }
        return orjson.dumps(job) + b"\n"


def _answer(
    key: str | None, answer_id: str, submission: Submission, uploads: Sequence[Upload]
) -> tuple[str, KeptAnswer] | None:
    if key is None:
        return None
    return key, KeptAnswer(_fingerprint(submission, uploads), answer_id)


def _fingerprint(submission: Submission, uploads: Sequence[Upload]) -> bytes:
    """Equal for two requests that ask for the same."""
    fields = {
        "method": submission.method,
        "config": submission.config,
        "priority": submission.priority,
        "timeout_s": submission.timeout_s,
        "label": submission.label,
        "retention": submission.retention,
        "webhook": submission.webhook,
    }
    digest = hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS))
    for upload in uploads:
        digest.update(upload.sha256 or b"")
    return digest.digest()
