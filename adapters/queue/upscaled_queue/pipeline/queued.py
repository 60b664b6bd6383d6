"""The pipeline on the machines of a queue: pictures go into the bucket, and tasks into the queue.

file ──> incoming/KEY ──> queue ──> a machine ──> folder/KEY, results/KEY.json
result <────────────── the queue's record <──────────┘
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

from upscaled.errors import error_of
from upscaled_protocol.backoff import pauses
from upscaled_queue.job import PIPELINE, Message, QueuedJob, read_job
from upscaled_queue.outages import reason_of
from upscaled_queue.pipeline.bucket import INCOMING, Bucket
from upscaled_queue.pipeline.process import Picture, PipelineResult, result_of
from upscaled_queue.pipeline.task import PictureTask, QueueAwayError, UnsafeQueueError
from upscaled_queue.producer import Producer
from upscaled_queue.record import Records
from upscaled_queue.redisserver import UnsafeRedisError, check_server, is_away
from upscaled_queue.settings import DEFAULT_LEASE_S, Settings

P = ParamSpec("P")
T = TypeVar("T")

# How soon the end of a picture is seen.
_LOOK_S = 0.5
# How many looks after one another are for ends alone, before lost jobs are looked for.
_LOOKS_PER_SWEEP = 10
# While the record is away.
_LAST_DELAY_S = 5.0

_LOG = logging.getLogger(__name__)


class _Open(NamedTuple):
    """A job that was given, and the future of its end."""

    job: QueuedJob
    end: asyncio.Future[Message]


class QueuedPipeline:
    """Gives pictures to the machines that serve `pipeline`, from one event loop.

    options: `threshold`, `scale`, `score`, `model` and `faces` of `PictureTask`.
    """

    def __init__(self, bucket: Bucket, settings: Settings, **options: Any) -> None:
        self._bucket = bucket
        self._url = settings.url
        self._options = options
        self._records = Records(settings.url.record, settings.keep_s)
        self._producer = Producer(settings, self._records)
        self._giving = asyncio.Lock()
        self._open: dict[str, _Open] = {}
        self._watching: asyncio.Task[None] | None = None

    async def process(self, picture: Picture) -> PipelineResult:
        """Give one picture, and wait for its result. Raises as `give` and its answer do."""
        return await (await self.give(picture))

    async def give(self, picture: Picture) -> Awaitable[PipelineResult]:
        """Put a picture into the queue: its result, to be awaited. A picture that was processed
        before gives its recorded result, and one that is in the queue already is not queued again.

        Raises `ObjectStorageError` and `QueueAwayError`. The result raises `UpscaledError` if
        the picture was not filed; then it can be given again.
        """
        recorded = await result_of(self._bucket, picture.key)
        if recorded is not None:
            return _ready(recorded)
        task = PictureTask(bucket=self._bucket.url, key=picture.key, **self._options)
        job = read_job(task.message())
        await self._queue(job, picture)
        return asyncio.ensure_future(self._result(job, picture))

    async def has_machines(self) -> bool:
        """Whether a machine serves the pipeline now. Raises `QueueAwayError` and
        `UnsafeQueueError`."""
        try:
            await _asked(check_server, self._url)
        except UnsafeRedisError as error:
            raise UnsafeQueueError(str(error)) from None
        _, machines = await _asked(self._records.counts, PIPELINE, DEFAULT_LEASE_S)
        return machines > 0

    async def _queue(self, job: QueuedJob, picture: Picture) -> None:
        # An end without a record in the bucket: it failed, or the bucket was emptied since then.
        has_ended = await _asked(self._records.end_of, job.job_id) is not None
        if not has_ended and await _asked(self._records.is_given, job.job_id):
            return
        if picture.path is not None:
            await self._bucket.write(f"{INCOMING}/{picture.key}", picture.path)
        async with self._giving:
            if has_ended:
                await _asked(self._records.delete, job.job_id)
                await _asked(self._producer.submit_again, job)
            else:
                await _asked(self._producer.submit, [job])

    async def _result(self, job: QueuedJob, picture: Picture) -> PipelineResult:
        event = await self._end_of(job)
        if event["type"] == "error":
            raise error_of(event)
        if picture.path is not None:
            # Another command may have put it there again, after the machine had deleted it.
            await self._bucket.delete(f"{INCOMING}/{picture.key}")
        return PipelineResult.of_fields(event)

    async def _end_of(self, job: QueuedJob) -> Message:
        if job.job_id not in self._open:
            self._open[job.job_id] = _Open(job, asyncio.get_running_loop().create_future())
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        return await asyncio.shield(self._open[job.job_id].end)

    async def _watch(self) -> None:
        """Settle the open pictures, as long as there are any."""
        looks = 0
        while self._open:
            for event in await _patiently(self._ends):
                self._open.pop(event["job_id"]).end.set_result(event)
            looks += 1
            if looks % _LOOKS_PER_SWEEP == 0:
                with contextlib.suppress(QueueAwayError):  # the next sweep finds them too
                    async with self._giving:
                        await _asked(self._submit_lost)
            await asyncio.sleep(_LOOK_S)

    def _ends(self) -> list[Message]:
        return list(self._records.ends_of(list(self._open)))

    def _submit_lost(self) -> None:
        """Submit again the open jobs that Redis has lost. Their pictures are in the bucket."""
        known = self._open.copy()  # in one step, because this runs in a thread
        lost = self._records.not_given(list(known))
        if lost:
            _LOG.warning("the queue has lost %d pictures: they are given again", len(lost))
            self._producer.submit([known[job_id].job for job_id in lost])


async def _asked(call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """The answer of the queue, asked in a thread. Raises `QueueAwayError`."""
    try:
        return await asyncio.to_thread(call, *args, **options)
    except Exception as error:
        if not is_away(error):
            raise
        raise QueueAwayError(f"the queue cannot be used now: {reason_of(error)}") from error


async def _patiently(call: Callable[[], T]) -> T:
    """Repeat a call until the queue answers."""
    pauses_s = pauses(_LOOK_S, _LAST_DELAY_S)
    while True:
        try:
            return await _asked(call)
        except QueueAwayError as error:
            _LOG.warning("%s", error)
            await asyncio.sleep(next(pauses_s))


async def _ready(result: PipelineResult) -> PipelineResult:
    return result
