"""Pictures that are filed in a bucket, by the pipeline of `upscaled_queue`.

What it upscales is a job like any other: limits, keys, webhooks and the page hold for it too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import Metric

from upscaled.errors import JobCancelledError, ShuttingDownError, UpscaledError, error_of
from upscaled_http.config import PipelineSettings
from upscaled_http.pictures import picture_size
from upscaled_http.problems import HttpCode, ProblemError, sentence_of
from upscaled_http.records import Record
from upscaled_http.results import check_result
from upscaled_http.submission import DEFAULT_METHOD, Submission
from upscaled_http.uploads import Body, Upload, storage_problem
from upscaled_protocol.choices import FORMATS
from upscaled_protocol.errors import ErrorCode

if TYPE_CHECKING:
    from upscaled_http.service import Service
    from upscaled_queue.pipeline.process import PipelineResult

# What a client may say about the job of a picture that is upscaled.
FIELDS = ("model", "timeout_s", "label", "retention", "webhook")
# How often a request that waits for its job looks whether the server stops.
_WAIT_TURN_S = 60.0

_LOG = logging.getLogger(__name__)


class Filed(NamedTuple):
    """A picture's result. sidecar_job: the job that upscaled it; None if there was none."""

    result: PipelineResult
    sidecar_job: Record | None


class Filing:
    """Files pictures in one bucket, and counts them since the start of the server."""

    def __init__(self, settings: PipelineSettings, bucket: str, service: Service) -> None:
        from upscaled_queue.pipeline.bucket import Bucket
        from upscaled_queue.pipeline.metrics import PipelineMetrics
        from upscaled_queue.pipeline.scores import find_score

        self._settings = settings
        self._service = service
        self._bucket = Bucket(bucket)
        self._score = find_score(settings.score)
        self._metrics = PipelineMetrics()

    def collect(self) -> Iterator[Metric]:
        """The metrics of the pipeline."""
        yield from self._metrics.collect()

    async def file(self, owner: str, body: Body) -> Filed:
        """Score the picture of a request, upscale it if its score is low, and store it.

        Raises `ProblemError` if the request is refused, its job is cancelled or fails for a reason
        that is not the picture's, the server stops, or the bucket does not answer. Then the picture
        has no record, and can be sent again.
        """
        from upscaled_queue.pipeline.bucket import StorageUnavailableError
        from upscaled_queue.pipeline.process import Picture, Pipeline
        from upscaled_queue.pipeline.scores import ScoreFailedError

        if not body.uploads:
            raise ProblemError.field("image", "Give a picture, as a file `image`.")
        upload = body.uploads[0]
        picture_size(upload.path, self._service.settings.limits.max_input_megapixels)
        name = upload.name or "picture"
        picture = await asyncio.to_thread(Picture.of_file, upload.path, name)
        submission = self._submission(body, Path(picture.key).suffix)
        job: Record | None = None

        async def upscale(_path: Path, output: Path) -> None:
            nonlocal job
            job = await self._submit(owner, submission, upload)
            await self._take_result(job, output)

        pipeline = Pipeline(
            self._bucket,
            upscale,
            self._score,
            self._settings.threshold,
            self._settings.scale,
            scratch=self._service.storage.incoming,
            on_recorded=self._metrics.count,
        )
        try:
            result = await pipeline.process(picture)
        except StorageUnavailableError as error:
            _LOG.warning("%s cannot be used: %s", self._bucket.url, error)
            raise ProblemError(
                ErrorCode.STORAGE_UNAVAILABLE,
                "The bucket cannot be reached, or it refuses; the server's log says why.",
            ) from None
        except JobCancelledError:
            raise ProblemError(
                ErrorCode.CANCELLED, "The job was cancelled, so the picture was not filed."
            ) from None
        except ShuttingDownError:
            raise _stopping() from None
        except UpscaledError as error:
            code = ErrorCode(error.code or ErrorCode.INTERNAL)
            raise ProblemError(code, sentence_of(str(error)), retryable=error.retryable) from None
        except ScoreFailedError as error:
            _LOG.error("%s", error)
            raise ProblemError(
                ErrorCode.INTERNAL, "The picture has no score; the server's log says why."
            ) from None
        return Filed(result, job)

    def _submission(self, body: Body, suffix: str) -> Submission:
        """The job of this picture. Its result has the picture's format, PNG if that is not
        written."""
        for name in body.fields:
            if name not in FIELDS:
                raise ProblemError.field(
                    name[:100],
                    f"Beside `image` there are {', '.join(FIELDS)}; the server's settings have the "
                    "rest.",
                    ErrorCode.INVALID_JOB,
                )
        scale = self._settings.scale
        values = {
            "model": self._service.settings.defaults.model or f"compact-x{scale}",
            **body.fields,
            "upscale_factor": str(scale) if body.is_text else scale,
            "output_format": FORMATS.get(suffix, "png"),
        }
        return self._service.reader.read(
            values, DEFAULT_METHOD, is_text=body.is_text, has_upload=True
        )

    async def _submit(self, owner: str, submission: Submission, upload: Upload) -> Record:
        """The job of a picture, once it has ended."""
        # The job takes the file over, and the pipeline stores the original if the job fails.
        given = upload.path.with_name(secrets.token_hex(16))
        try:
            await asyncio.to_thread(_link, upload.path, given)
            submitted = await self._service.submit(owner, submission, upload._replace(path=given))
        except OSError as error:
            raise storage_problem(error) from None
        finally:
            given.unlink(missing_ok=True)
        record = submitted.record
        while not await self._service.wait(record, _WAIT_TURN_S):
            if self._service.is_draining:
                raise _stopping()
        return record

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


def open_filing(settings: PipelineSettings, service: Service) -> Filing | None:
    """The filing into the bucket of the settings; None if they have no bucket."""
    return None if settings.bucket is None else Filing(settings, settings.bucket, service)


def _link(path: Path, other: Path) -> None:
    """Give a file a second name; a copy if the disk has no links. Raises `OSError`."""
    try:
        os.link(path, other)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(path, other)


def _stopping() -> ProblemError:
    return ProblemError(
        ErrorCode.SHUTTING_DOWN, "The server stops before the picture is filed; send it again."
    )
