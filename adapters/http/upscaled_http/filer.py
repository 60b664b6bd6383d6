"""One picture through the pipeline of `upscaled_queue`, with the server's jobs as its upscaler.

What it upscales is a job like any other: limits, keys and the page hold for it too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import Metric

from upscaled.errors import JobCancelledError, ShuttingDownError, UpscaledError, error_of
from upscaled_http.config import PipelineSettings
from upscaled_http.fields import JOB_FIELDS
from upscaled_http.filings import Filing
from upscaled_http.incoming import Upload, storage_problem
from upscaled_http.pictures import picture_size
from upscaled_http.problems import HttpCode, ProblemError, sentence_of
from upscaled_http.records import Record
from upscaled_http.results import check_result
from upscaled_http.submission import DEFAULT_METHOD, Submission
from upscaled_protocol.choices import FORMATS
from upscaled_protocol.errors import ErrorCode

if TYPE_CHECKING:
    from upscaled_http.service import Service
    from upscaled_queue.pipeline.process import Faces, PipelineResult

# What a client may say about the job of a picture that is upscaled.
FIELDS = ("model", "faces", *JOB_FIELDS)
# How often a request that waits for its job looks whether the server stops.
_WAIT_TURN_S = 60.0

_LOG = logging.getLogger(__name__)

NoteJob = Callable[[], None]


class Filer:
    """Files pictures in one bucket, and counts them since the start of the server."""

    def __init__(self, settings: PipelineSettings, bucket: str, service: Service) -> None:
        from upscaled_queue.pipeline.bucket import Bucket
        from upscaled_queue.pipeline.metrics import PipelineMetrics
        from upscaled_queue.pipeline.scores import find_score

        self.settings = settings
        self._service = service
        self.bucket = Bucket(bucket)
        self._score = find_score(settings.score)
        self._metrics = PipelineMetrics()

    def collect(self) -> Iterator[Metric]:
        """The metrics of the pipeline."""
        yield from self._metrics.collect()

    def check(self, upload: Upload, fields: Mapping[str, Any], *, is_text: bool) -> Submission:
        """Refuse what is no picture, or has wrong fields: the job that would upscale it, and its
        `webhook`. Raises `ProblemError`."""
        picture_size(upload.path, self._service.settings.limits.max_input_megapixels)
        return self._submission(fields, Path(upload.name or "").suffix.lower(), is_text=is_text)

    async def file(
        self, filing: Filing, upload: Upload, submission: Submission, note_job: NoteJob
    ) -> PipelineResult:
        """Score a picture, upscale it if its score is low, and store it. Sets `is_new`.

        note_job: called when `job_id` is set, before that job is made. Raises `ProblemError` if the
        job is refused, cancelled, or fails for a reason that is not the picture's, if the server
        stops, and if the bucket does not answer. Then the picture has no record, and can be filed
        again.
        """
        from upscaled_imaging.storage import ObjectStorageError
        from upscaled_queue.pipeline.process import Picture, Pipeline
        from upscaled_queue.pipeline.scores import ScoreFailedError

        name = upload.name or "picture"
        picture = await asyncio.to_thread(Picture.of_file, upload.path, name)
        job = replace(submission, webhook=None)

        async def upscale(_path: Path, output: Path) -> Faces:
            record = await self._job(filing, job, upload, note_job)
            await self._take_result(record, output)
            return record.outcome.get("faces")

        def note_new(result: PipelineResult) -> None:
            filing.is_new = True
            self._metrics.count(result)

        pipeline = Pipeline(
            self.bucket,
            upscale,
            self._score,
            self.settings.threshold,
            self.settings.scale,
            scratch=self._service.storage.incoming,
            on_recorded=note_new,
        )
        try:
            return await pipeline.process(picture)
        except ObjectStorageError as error:
            _LOG.warning("%s cannot be used: %s", self.bucket.url, error)
            raise ProblemError(
                ErrorCode.STORAGE_UNAVAILABLE,
                "The bucket cannot be reached, or it refuses; the server's log says why.",
            ) from None
        except JobCancelledError:
            raise ProblemError(
                ErrorCode.CANCELLED, "The job was cancelled, so the picture was not filed."
            ) from None
        except ShuttingDownError:
            raise stopping() from None
        except UpscaledError as error:
            code = ErrorCode(error.code or ErrorCode.INTERNAL)
            raise ProblemError(code, sentence_of(str(error)), retryable=error.retryable) from None
        except ScoreFailedError as error:
            _LOG.error("%s", error)
            raise ProblemError(
                ErrorCode.INTERNAL, "The picture has no score; the server's log says why."
            ) from None
        except OSError as error:
            raise storage_problem(error) from None

    def _submission(self, fields: Mapping[str, Any], suffix: str, *, is_text: bool) -> Submission:
        """The job of a picture. Its result has the picture's format, PNG if that is not written."""
        for name in fields:
            if name not in FIELDS:
                raise ProblemError.field(
                    name[:100],
                    f"Beside `image` there are {', '.join(FIELDS)}; the server's settings have the "
                    "rest.",
                    ErrorCode.INVALID_JOB,
                )
        scale = self.settings.scale
        values = {
            **fields,
            "upscale_factor": str(scale) if is_text else scale,
            "output_format": FORMATS.get(suffix, "png"),
        }
        return self._service.reader.read(values, DEFAULT_METHOD, is_text=is_text, has_upload=True)

    async def _job(
        self, filing: Filing, submission: Submission, upload: Upload, note_job: NoteJob
    ) -> Record:
        """The job of a picture, once it has ended. A job of an earlier server is continued."""
        record = self._known_job(filing)
        if record is None:
            # Before the submit: a server that is killed meanwhile must not make a second job.
            filing.job_id = str(uuid.uuid4())
            note_job()
            try:
                record = await self._submit(filing, submission, upload)
            except ProblemError:
                filing.job_id = None
                raise
        while not await self._service.wait(record, _WAIT_TURN_S):
            if self._service.is_draining:
                raise stopping()
        return record

    def _known_job(self, filing: Filing) -> Record | None:
        if filing.job_id is None:
            return None
        try:
            record = self._service.find(filing.owner, filing.job_id)
        except ProblemError:
            return None
        is_gone = record.status == "completed" and record.file_name is None
        return None if is_gone or record.outcome.get("retryable") is True else record

    async def _submit(self, filing: Filing, submission: Submission, upload: Upload) -> Record:
        """A new job."""
        # The job takes the file over, and the pipeline stores the original if the job fails. What a
        # killed server leaves in the incoming folder, the next one removes.
        given = self._service.storage.incoming / secrets.token_hex(16)
        try:
            await asyncio.to_thread(_link, upload.path, given)
            submitted = await self._service.submit(
                filing.owner, submission, upload._replace(path=given), job_id=filing.job_id
            )
        except OSError as error:
            raise storage_problem(error) from None
        finally:
            given.unlink(missing_ok=True)
        return submitted.record

    async def _take_result(self, job: Record, output: Path) -> None:
        """Raises `UpscaledError` if the job has failed."""
        if job.status != "completed":
            raise error_of({**job.outcome, "job_id": job.job_id})
        result = self._service.storage.result(check_result(job))
        try:
            await asyncio.to_thread(_link, result, output)
        except FileNotFoundError:
            raise ProblemError(HttpCode.RESULT_GONE, "The result was removed.") from None
        except OSError as error:
            raise storage_problem(error) from None
        self._service.note_download(job)


def _link(path: Path, other: Path) -> None:
    """Give a file a second name; a copy if the disk has no links. Raises `OSError`."""
    try:
        os.link(path, other)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(path, other)


def stopping() -> ProblemError:
    """The problem of a picture that is not filed because the server stops."""
    return ProblemError(
        ErrorCode.SHUTTING_DOWN, "The server stops before the picture is filed; send it again."
    )
