"""The pictures that the server files: one at once, or a batch that it works off.

upload ──> row, file ──> Filer ──> the bucket ──> row, webhook
             └── a server that was killed continues here
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import Metric

from upscaled_http.admission import RETRY_AFTER_S, check_room
from upscaled_http.config import PipelineSettings
from upscaled_http.filer import Filer
from upscaled_http.filings import Filing
from upscaled_http.incoming import Upload, storage_problem
from upscaled_http.messages import PictureEvent, PipelineStats, ScoreCount
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_http.records import time_of
from upscaled_http.uploads import Body
from upscaled_protocol.backoff import pauses
from upscaled_protocol.errors import ErrorCode

if TYPE_CHECKING:
    from upscaled_http.service import Service
    from upscaled_queue.pipeline.process import PipelineResult

# Pictures of batches at once: the transfers of some beside the upscale of others.
_AT_ONCE = 4
# Between two tries of a picture: doubled with each.
_FIRST_PAUSE_S = 1.0
_LAST_PAUSE_S = 60.0
# As long as a webhook is tried.
_GIVEN_UP_AFTER_S = 86400.0
# While the disk is full or fails.
_DISK_PAUSE_S = 5.0
# Edges of the classes of scores, of which 1 is a whole 4K screen.
_SCORE_EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0)
_RECENT = 8

_LOG = logging.getLogger(__name__)


class FiledBatch(NamedTuple):
    """Pictures that were uploaded together, and why others were refused."""

    batch_id: str
    filings: list[Filing]
    refused: list[ProblemError]


class FilingQueue:
    """Owns the tasks that file pictures. `start` comes first and `stop` last."""

    def __init__(self, filer: Filer, service: Service) -> None:
        self._filer = filer
        self._service = service
        self._rows = service.registry.filings
        # Of batches, in the order of their receipt.
        self._open: dict[str, Filing] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(_AT_ONCE)

    def start(self) -> None:
        """Continue with the pictures of an earlier server."""
        for filing in self._rows.open():
            self._begin(filing)

    async def stop(self) -> None:
        """File nothing more. The next server continues."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_idle(self) -> bool:
        """True if no picture of a batch waits or is being filed."""
        return not self._open

    def collect(self) -> Iterator[Metric]:
        """The metrics of the pipeline."""
        yield from self._filer.collect()

    async def file(self, owner: str, body: Body) -> tuple[Filing, PipelineResult]:
        """File the picture of a request before its answer. Raises `ProblemError`; then it can be
        sent again."""
        upload = body.uploads[0]
        submission = self._filer.check(upload, body.fields, is_text=body.is_text)
        filing = self._new(owner, upload, submission.webhook)
        # A request that is lost has no job to continue with.
        result = await self._filer.file(filing, upload, submission, lambda: None)
        self._finish(filing, result)
        if filing.is_new or filing.webhook is not None:
            try:
                self._record(filing, self._rows.add)
            except sqlite3.Error as error:  # the bucket has the picture and its record
                _LOG.warning("a filed picture cannot be recorded: %s", error)
        return filing, result

    def accept(self, owner: str, body: Body) -> FiledBatch:
        """Take the pictures of a request, to file them after its answer. If some are refused, the
        others are taken all the same. Raises `ProblemError` if all are refused."""
        self._check_room()
        batch = FiledBatch(str(uuid.uuid4()), [], [])
        try:
            for upload in body.uploads:
                try:
                    batch.filings.append(self._take(owner, body, upload, batch.batch_id))
                except ProblemError as error:
                    batch.refused.append(error.named(upload.name))
            if not batch.filings:
                raise batch.refused[0]
            with self._service.registry.transaction():
                for filing in batch.filings:
                    self._rows.add(filing)
        except BaseException as error:
            for filing in batch.filings:
                self._service.storage.remove_upload(filing.picture_id)
            if isinstance(error, sqlite3.Error):
                raise ProblemError(
                    HttpCode.INSUFFICIENT_STORAGE,
                    "The pictures were not accepted, because the server's disk is full or fails; "
                    "try again later.",
                ) from None
            raise
        for filing in batch.filings:
            self._begin(filing)
        return batch

    def batch(self, owner: str, batch_id: str) -> list[Filing]:
        """The pictures of a batch, in the order of the request. Raises `ProblemError`
        (not_found)."""
        filings = self._rows.batch(owner, batch_id)
        if not filings:
            raise ProblemError(HttpCode.NOT_FOUND, "There is no such batch of pictures.")
        return [self._open.get(one.picture_id, one) for one in filings]

    def stats(self, owner: str) -> PipelineStats:
        """Counts of the owner's pictures, and the last ones."""
        from upscaled_queue.pipeline.bucket import FAILED, FOLDERS

        settings = self._filer.settings
        counts = {one.folder: one for one in self._rows.folders(owner)}
        folders = {name: counts[name].pictures if name in counts else 0 for name in FOLDERS}
        total = sum(folders.values())
        scores = self._rows.scores(owner, _SCORE_EDGES)
        newest = self._rows.newest(owner, _RECENT)
        return PipelineStats(
            bucket=self._filer.bucket.url,
            threshold=settings.threshold,
            scale=settings.scale,
            score=settings.score,
            folders=folders,
            scores=[
                ScoreCount(below=below, pictures=pictures)
                for below, pictures in zip((*_SCORE_EDGES, None), scores, strict=True)
            ],
            success_rate=1 - folders[FAILED] / total if total else None,
            seconds_per_picture=(
                sum(one.seconds for one in counts.values()) / total if total else None
            ),
            open=sum(one.owner == owner for one in self._open.values()),
            recent=[self._open.get(one.picture_id, one).body() for one in newest],
        )

    # --- parts ----------------------------------------------------------------------------------

    def _check_room(self) -> None:
        limit = self._service.settings.limits.max_queue
        check_room(self._service, limit)
        if len(self._open) >= limit:
            raise ProblemError(
                ErrorCode.QUEUE_FULL,
                f"{len(self._open)} pictures are not filed yet, and this server's limit is "
                f"{limit}; send this again later.",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )

    @staticmethod
    def _new(
        owner: str, upload: Upload, webhook: str | None, batch_id: str | None = None
    ) -> Filing:
        return Filing(
            picture_id=str(uuid.uuid4()),
            owner=owner,
            created_at=time.time(),
            batch_id=batch_id,
            name=upload.name,
            webhook=webhook,
        )

    def _take(self, owner: str, body: Body, upload: Upload, batch_id: str) -> Filing:
        submission = self._filer.check(upload, body.fields, is_text=body.is_text)
        filing = self._new(owner, upload, submission.webhook, batch_id)
        filing.fields = {"values": body.fields, "is_text": body.is_text}
        try:
            self._service.storage.take_upload(upload.path, filing.picture_id, upload.size_bytes)
        except OSError as error:
            raise storage_problem(error) from None
        return filing

    def _begin(self, filing: Filing) -> None:
        self._open[filing.picture_id] = filing
        task = asyncio.create_task(self._run(filing))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, filing: Filing) -> None:
        """File a picture of a batch, by as many tries as it takes."""
        pauses_s = pauses(_FIRST_PAUSE_S, _LAST_PAUSE_S)
        while not self._service.is_draining:
            async with self._places:
                filing.is_running = True
                outcome = await self._try(filing)
                filing.is_running = False
            if not isinstance(outcome, ProblemError):
                self._finish(filing, outcome)
                break
            if outcome.code == ErrorCode.SHUTTING_DOWN:
                return
            is_late = time.time() - filing.created_at > _GIVEN_UP_AFTER_S
            if not outcome.problem.retryable or is_late:
                self._finish(filing, outcome)
                break
            filing.detail = outcome.detail
            await asyncio.sleep(next(pauses_s))
        else:
            return
        # Without the record the next server would file the picture again.
        while True:
            try:
                self._record(filing, self._rows.update)
                break
            except sqlite3.Error as error:
                _LOG.error("the end of a picture cannot be recorded: %s", error)
                await asyncio.sleep(_DISK_PAUSE_S)
        self._service.storage.remove_upload(filing.picture_id)
        del self._open[filing.picture_id]

    async def _try(self, filing: Filing) -> PipelineResult | ProblemError:
        path = self._service.storage.upload(filing.picture_id)

        def note_job() -> None:
            try:
                self._rows.update(filing)
            except sqlite3.Error as error:  # after a restart it is upscaled once more
                _LOG.warning("the job of a picture cannot be recorded: %s", error)

        try:
            upload = Upload(path, filing.name, path.stat().st_size, None)
            values, is_text = filing.fields["values"], filing.fields["is_text"]
            submission = self._filer.check(upload, values, is_text=is_text)
            return await self._filer.file(filing, upload, submission, note_job)
        except ProblemError as error:
            return error
        except FileNotFoundError:
            return ProblemError(ErrorCode.INPUT_NOT_FOUND, "The picture's upload was removed.")
        except Exception:  # noqa: BLE001 - else the picture would have no end
            _LOG.exception("a picture was not filed because of a defect")
            return ProblemError(
                ErrorCode.INTERNAL, "The picture was not filed; the server's log says why."
            )

    @staticmethod
    def _finish(filing: Filing, outcome: PipelineResult | ProblemError) -> None:
        filing.finished_at = time.time()
        filing.detail = None
        if isinstance(outcome, ProblemError):
            filing.outcome = {"problem": outcome.problem.model_dump(mode="json")}
        else:
            filing.outcome = outcome.fields

    def _record(self, filing: Filing, write: Callable[[Filing], None]) -> None:
        """The row and the webhook, both or none. Raises `sqlite3.Error`."""
        with self._service.registry.transaction():
            write(filing)
            if filing.webhook is not None and self._service.webhooks is not None:
                event = PictureEvent(
                    type="picture.failed" if filing.status == "failed" else "picture.filed",
                    timestamp=time_of(filing.finished_at),
                    data=filing.body(),
                )
                self._service.webhooks.add(filing.owner, filing.webhook, filing.picture_id, event)


def open_filing(settings: PipelineSettings, service: Service) -> FilingQueue | None:
    """The filing into the bucket of the settings; None if they have no bucket."""
    if settings.bucket is None:
        return None
    return FilingQueue(Filer(settings, settings.bucket, service), service)
