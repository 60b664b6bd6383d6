"""The pipeline on a machine of a fleet: a delivered picture, with the machine's daemon as its
upscaler.

    incoming/KEY ──> score ──> [daemon: esrgan] ──> folder/KEY, results/KEY.json
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from upscaled.errors import DaemonGoneError, UpscaledError
from upscaled_imaging.storage import ObjectStorageError
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_queue.job import UPSCALING_METHOD, Message, QueuedJob, error_event, event_of
from upscaled_queue.pipeline.bucket import INCOMING, BadRecordError, Bucket
from upscaled_queue.pipeline.metrics import PipelineMetrics
from upscaled_queue.pipeline.process import Faces, Picture, Pipeline
from upscaled_queue.pipeline.scores import SCORES, Score, ScoreFailedError, find_score
from upscaled_queue.pipeline.task import PictureTask, read_task

# Gives the daemon a job.
Submit = Callable[[Message], Future[Any]]

# Of the queue's message, for the daemon's job.
_JOB_FIELDS = ("priority", "timeout_s", "max_attempts")


class _TryAgainError(Exception):
    """Raised instead of an error that another delivery may not have. No `UpscaledError`, so that
    the picture is not filed because of it."""

    def __init__(self, error: UpscaledError) -> None:
        super().__init__(str(error))
        self.error = error


class Delivery:
    """One picture. `cancel` ends it from any thread, whatever it does."""

    def __init__(self, job: QueuedJob, submit: Submit, *, is_last: bool) -> None:
        self.job = job
        self.submit = submit
        self.is_last = is_last
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        """Returns at once."""
        self._is_cancelled = True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended
                self._loop.call_soon_threadsafe(self._task.cancel)

    def run(self, work: Coroutine[Any, Any, Message]) -> Message:
        """Run it in this thread. Raises `asyncio.CancelledError` after `cancel`."""

        async def start() -> Message:
            self._task = asyncio.current_task()
            self._loop = asyncio.get_running_loop()
            if self._is_cancelled:
                work.close()
                raise asyncio.CancelledError
            return await work

        return asyncio.run(start())

    async def upscale(self, task: PictureTask, path: Path, output: Path) -> Faces:
        """By a job of the daemon: the faces of its result. Raises `UpscaledError` and
        `_TryAgainError`."""
        given = self.job.message
        call = self.submit(
            {
                "job_id": self.job.job_id,
                "method": UPSCALING_METHOD,
                "config": {
                    "image_path": str(path),
                    "output_path": str(output),
                    "upscale_factor": task.scale,
                    **task.model_dump(include={"model", "faces"}, exclude_defaults=True),
                },
                **{name: given[name] for name in _JOB_FIELDS if name in given},
            }
        )
        ended = asyncio.wrap_future(call)
        try:
            result = await asyncio.shield(ended)
        except asyncio.CancelledError:
            call.cancel()
            # The daemon writes to the folder until the job has ended.
            await asyncio.wait([ended])
            raise
        except UpscaledError as error:
            if error.retryable and not self.is_last:
                raise _TryAgainError(error) from None
            raise
        faces: Faces = result.message.get("faces")
        return faces


class Deliveries:
    """The pictures of one machine. scratch: the folder that the daemon must be allowed. scores: the
    user's own that queued jobs may name, as `module:function`."""

    def __init__(self, scores: Sequence[str]) -> None:
        """Raises `ValueError` for a score that cannot be imported."""
        self._scores: dict[str, Score] = SCORES | {name: find_score(name) for name in scores}
        self._buckets: dict[str, Bucket] = {}
        self.metrics = PipelineMetrics()
        self.scratch = Path(tempfile.mkdtemp(prefix="upscaled-pipeline-"))

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def event(self, delivery: Delivery) -> Message:
        """Process the picture: the job's terminal event. Raises `DaemonGoneError`, and
        `asyncio.CancelledError` after a cancel."""
        job_id = delivery.job.job_id
        try:
            task = read_task(delivery.job.message.get("config"))
            work = self._process(delivery, task, self._bucket(task), self._score(task))
            return delivery.run(work)
        except JobError as error:
            return error_event(error, job_id)
        except DaemonGoneError:
            raise
        except _TryAgainError as error:
            return event_of(error.error, job_id)
        except UpscaledError as error:
            return event_of(error, job_id)

    async def _process(
        self, delivery: Delivery, task: PictureTask, bucket: Bucket, score: Score
    ) -> Message:
        async def upscale(path: Path, output: Path) -> Faces:
            return await delivery.upscale(task, path, output)

        pipeline = Pipeline(
            bucket,
            upscale,
            score,
            task.threshold,
            task.scale,
            scratch=self.scratch,
            on_recorded=self.metrics.count,
        )
        try:
            result = await pipeline.process(Picture(task.key))
        except FileNotFoundError:
            text = f"there is no picture {bucket.url_of(f'{INCOMING}/{task.key}')}"
            raise JobError(ErrorCode.INPUT_NOT_FOUND, text) from None
        except BadRecordError as error:
            raise JobError(ErrorCode.INTERNAL, f"in {bucket.url} {error}") from None
        except ObjectStorageError as error:
            text = f"{bucket.url} cannot be used: {error}"
            raise JobError(ErrorCode.STORAGE_UNAVAILABLE, text) from None
        except ScoreFailedError as error:
            raise JobError(ErrorCode.INTERNAL, str(error)) from None
        except OSError as error:
            text = f"the machine's temporary folder cannot be used: {error.strerror or error}"
            raise JobError(ErrorCode.OUTPUT_UNWRITABLE, text) from None
        return {
            "type": "result",
            "job_id": delivery.job.job_id,
            "status": "completed",
            **result.fields,
        }

    def _bucket(self, task: PictureTask) -> Bucket:
        if task.bucket not in self._buckets:
            try:
                self._buckets[task.bucket] = Bucket(task.bucket)
            except ValueError as error:
                raise JobError(ErrorCode.INVALID_JOB, str(error)) from None
        return self._buckets[task.bucket]

    def _score(self, task: PictureTask) -> Score:
        if task.score not in self._scores:
            raise JobError(
                ErrorCode.PATH_NOT_ALLOWED,
                f"this machine has no score {task.score[:64]!r}: it has "
                f"{', '.join(self._scores)}, and what --allow-score names",
            )
        return self._scores[task.score]
