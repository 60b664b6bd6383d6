"""One machine: one daemon, and the deliveries that run on it.

    engine ── run ──> record: begin ──> daemon ──> record: settle ── Ended ──> engine acknowledges
                                          └── it is lost, or the machine leaves ── GivenBack

An engine calls `run` in a thread for each delivery. No outage ends a delivery: the machine waits
until the record can be reached; a lost daemon is started again, and the job runs again within the
same delivery.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from redis import RedisError

from upscaled import DaemonGoneError, UpscaledError, Upscaler
from upscaled.protocol import Progress
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.log import Logger
from upscaled_queue.daemonargs import daemon_args, daemon_environment, takes_paths
from upscaled_queue.ends import Ends, Outcome
from upscaled_queue.exits import EXIT_NO_DAEMON, EXIT_OK, EXIT_STUCK
from upscaled_queue.job import (
    PIPELINE,
    Message,
    QueuedJob,
    cancelled_event,
    check_allowed,
    error_event,
    event_of,
    read_job,
)
from upscaled_queue.record import Records
from upscaled_queue.settings import Settings
from upscaled_queue.webhooks import check_webhook

if TYPE_CHECKING:
    from upscaled import Call
    from upscaled_queue.pipeline.delivery import Deliveries, Delivery
    from upscaled_queue.sender import WebhookSender

# A daemon that was lost gets a pause before its job runs again, or a job that ends it at once would
# use all its deliveries within a second.
_LOST_DAEMON_S = 0.2
# From the daemon's own grace to the end of its process.
_AFTER_GRACE_S = 3.0

ProgressListener = Callable[[Message], None]


@dataclass
class Run:
    """A job that runs here. lease: the engine's name of the delivery; None if it needs none.
    call: what runs now, and can be cancelled."""

    job: QueuedJob
    lease: str | None
    outcome: Future[Outcome] = field(default_factory=Future)
    call: Call[None] | Delivery | None = None
    is_cancelled: bool = False


class Machine:
    """Owns the daemon. Any number of threads may call `run`."""

    def __init__(self, settings: Settings, log: Logger) -> None:
        """Raises `ValueError` for a score of the settings that cannot be imported, and
        `ModuleNotFoundError` if the extra for buckets is missing."""
        self.settings = settings
        self.log = log
        self.given_up = threading.Event()
        self.records = Records(settings.url.record, settings.keep_s, self.given_up)
        self.runs: dict[str, Run] = {}
        # The newest progress of each job that has not been written yet.
        self.news: dict[str, Message] = {}
        self.ends = Ends(settings, self.records, log)
        self.last_delivery = time.monotonic()
        self.is_stopping = False
        self.has_failed = False
        self.on_failed: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._closing: threading.Thread | None = None
        self.sender: WebhookSender | None = None
        if settings.webhooks is not None:
            from upscaled_queue.sender import WebhookSender

            self.sender = WebhookSender(settings, settings.webhooks, log)
        self.pictures = _pictures(settings)
        scratch = () if self.pictures is None else (str(self.pictures.scratch),)
        self._upscaler = Upscaler(
            args=daemon_args(settings, scratch),
            env=daemon_environment(os.environ),
            show_log=True,
            close_timeout_s=settings.grace_s + _AFTER_GRACE_S,
        )

    def start(self) -> int:
        """Start the daemon and wait until it is ready. Returns the number of its workers. Raises
        `DaemonGoneError`."""
        self._upscaler.start()
        if self.sender is not None:
            self.sender.start()
        self.last_delivery = time.monotonic()
        return max(1, len(self._upscaler.health().workers or ()))

    # --- deliveries -----------------------------------------------------------------------------

    def run(
        self,
        fields: object,
        token: str,
        *,
        lease: str | None = None,
        on_progress: ProgressListener | None = None,
    ) -> Outcome:
        """Run one delivery. token: unique for each delivery. Raises `RecordLostError`."""
        self.last_delivery = time.monotonic()
        try:
            job = read_job(fields)
        except JobError as error:
            return self.ends.refuse(fields, error)
        with self._lock:
            other = self.runs.get(job.job_id)
            if other is None:
                run = self.runs[job.job_id] = Run(job, lease)
        if other is not None:
            # A machine that was frozen past its lease gets its own job once more.
            return other.outcome.result()
        try:
            outcome = self._run(run, token, on_progress)
            run.outcome.set_result(outcome)
        except BaseException as error:
            run.outcome.set_exception(error)
            raise
        finally:
            # Before the run is removed: with no run the machine may be idle.
            self.last_delivery = time.monotonic()
            with self._lock:
                del self.runs[job.job_id]
            self.news.pop(job.job_id, None)
        return outcome

    def _run(self, run: Run, token: str, on_progress: ProgressListener | None) -> Outcome:
        job, starts = run.job, 0
        try:
            check_webhook(job.webhook_url, job.job_id, self.settings.webhooks)
            check_allowed(job, self.settings.allow_urls, takes_paths=takes_paths(self.settings))
        except JobError as error:
            return self.ends.settle(job, error_event(error, job.job_id))
        while True:
            starts += 1
            own_token = f"{token}/{starts}"
            start = self.records.begin(
                job, own_token, self.settings.machine, self.settings.max_deliveries
            )
            if start.kind != "run":
                return self.ends.without_start(job, start)
            deliveries = int(start.number)
            self.ends.count("delivered_first" if deliveries == 1 else "delivered_again")
            is_last = deliveries >= self.settings.max_deliveries
            event = None if self._is_leaving else self._event(run, on_progress, is_last=is_last)
            if event is not None and event.get("code") != "shutting_down":
                return self.ends.settle_or_retry(job, own_token, event, deliveries)
            if self._is_leaving:
                return self.ends.give_back(job, own_token)
            # The daemon is gone, and the next one is being started.
            self.log.log("warning", "daemon_lost", job_id=job.job_id, delivery=deliveries)
            time.sleep(_LOST_DAEMON_S)

    @property
    def _is_leaving(self) -> bool:
        return self.is_stopping or self.has_failed

    def _event(
        self, run: Run, on_progress: ProgressListener | None, *, is_last: bool
    ) -> Message | None:
        """The job's terminal event; None if the daemon is gone, or the machine leaves."""
        job_id = run.job.job_id

        def note_progress(progress: Progress) -> None:
            news = _progress_fields(progress)
            self.news[job_id] = news
            if on_progress is not None:
                on_progress(news)

        def submit(message: Message) -> Call[None]:
            try:
                return self._upscaler.submit_job(message, note_progress)
            except DaemonGoneError as error:
                if not self.is_stopping:
                    self._fail(str(error))
                raise

        try:
            if run.job.method == PIPELINE:
                return self._file_picture(run, submit, is_last=is_last)
            call = submit(run.job.message)
            self._hold(run, call)
            return call.result().message
        except DaemonGoneError:
            return None
        except UpscaledError as error:
            return event_of(error, job_id)
        finally:
            run.call = None

    def _file_picture(
        self, run: Run, submit: Callable[[Message], Call[None]], *, is_last: bool
    ) -> Message | None:
        from upscaled_queue.pipeline.delivery import Delivery

        if self.pictures is None:
            error = JobError(ErrorCode.UNKNOWN_METHOD, "this machine does not serve pipeline")
            return error_event(error, run.job.job_id)
        delivery = Delivery(run.job, submit, is_last=is_last)
        self._hold(run, delivery)
        try:
            return self.pictures.event(delivery)
        except CancelledError:
            return cancelled_event(run.job, "while it ran") if run.is_cancelled else None

    @staticmethod
    def _hold(run: Run, call: Call[None] | Delivery) -> None:
        """Let `cancel` reach what runs; a cancel may have come before it."""
        run.call = call
        if run.is_cancelled:
            call.cancel()

    def running(self) -> list[Run]:
        """What runs here now."""
        with self._lock:
            return list(self.runs.values())

    def cancel(self, job_id: str) -> None:
        """End the job if it runs here."""
        run = self.runs.get(job_id)
        if run is not None:
            run.is_cancelled = True
            call = run.call
            if call is not None:
                call.cancel()

    # --- leaving --------------------------------------------------------------------------------

    @property
    def exit_status(self) -> int:
        """The exit status of a machine that has stopped."""
        return EXIT_NO_DAEMON if self.has_failed else EXIT_OK

    def stop(self) -> None:
        """Take no more jobs. The daemon gets SIGTERM and its grace; the jobs that it does not
        finish are given back. A second call kills it. Returns at once."""
        if self._closing is not None:
            threading.Thread(target=self.kill, name="upscaled-kill", daemon=True).start()
            return
        self.is_stopping = True
        self._closing = threading.Thread(target=self._close, name="upscaled-close", daemon=True)
        self._closing.start()

    def wait_stopped(self) -> None:
        """Wait until the daemon has exited, and leave the record's list of machines. Stops it
        first, if nobody has."""
        if self._closing is None:
            self.stop()
        if self._closing is not None:
            self._closing.join()
        if self.pictures is not None:
            self.pictures.close()
        if self.sender is not None:
            self.sender.stop()
        with contextlib.suppress(RedisError):
            self.records.leave(self.settings.machine, self.settings.methods)

    def kill(self) -> None:
        """End the daemon now."""
        self.is_stopping = True
        self._upscaler.kill()
        self.given_up.set()
        if self.pictures is not None:
            self.pictures.close()

    def exit_stuck(self) -> NoReturn:
        """Kill the daemon and exit at once: what hangs would hang in an orderly end as well."""
        self.kill()
        os._exit(EXIT_STUCK)

    def _close(self) -> None:
        pid = self._upscaler.pid
        closing = threading.Thread(target=self._upscaler.close, daemon=True)
        closing.start()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        closing.join()
        # Records that could not be written by now are left to the next delivery.
        self.given_up.wait(_AFTER_GRACE_S if self.runs else 0)
        for run in self.running():
            # Of the daemon's jobs none is left: these are pictures on their way to a bucket.
            if (call := run.call) is not None:
                call.cancel()
        self.given_up.set()

    def _fail(self, reason: str) -> None:
        if not self.has_failed:
            self.has_failed = True
            self.log.log("error", "daemon_cannot_be_kept", detail=reason)
            self.on_failed()


def _pictures(settings: Settings) -> Deliveries | None:
    """The pipeline for pictures of buckets; None if the machine does not serve it."""
    if PIPELINE not in settings.methods:
        return None
    import obstore  # noqa: F401 - so that a missing extra is reported before any job

    from upscaled_queue.pipeline.delivery import Deliveries

    return Deliveries(settings.allow_scores)


def _progress_fields(progress: Progress) -> Message:
    """The fields of a job's progress that the record and BullMQ have."""
    fields = ("progress", "stage", "done", "total", "eta_s", "attempt")
    values = {name: getattr(progress, name) for name in fields}
    return {name: value for name, value in values.items() if value is not None}
