"""BullMQ on its official Python port: the queues of a Node backend, without Node.

The event loop only talks to Redis. Deliveries run in threads, because a loop that is blocked for
longer than the lease loses the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import redis.asyncio
import redis.exceptions
from bullmq import Job, Queue, Worker
from bullmq.custom_errors import DelayedError, UnrecoverableError
from bullmq.queue_keys import QueueKeys
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from upscaled.protocol import ERROR_CODES
from upscaled_protocol.envelope import MAX_JOB_ID_LENGTH
from upscaled_protocol.errors import ErrorCode
from upscaled_queue.depth import count_waiting
from upscaled_queue.ends import Ended, GivenBack, Outcome
from upscaled_queue.job import Message, QueuedJob, bullmq_priority
from upscaled_queue.outages import reason_of
from upscaled_queue.seldom import Seldom
from upscaled_queue.settings import Settings

if TYPE_CHECKING:  # a backend that gives jobs has no machine
    from upscaled_queue.machine import Machine

# The record counts deliveries. BullMQ's own limit ends a job without a record, so it is higher than
# ours: a machine may be killed between a delivery and its count.
_MORE_STALLS = 20
# Between two tries to reach Redis; BullMQ's own client waits up to 20 s.
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 1.0
_ENDLESS = 2**31
# How long the worker waits for a job before it asks the queue again: BullMQ's own default.
_LONGEST_WAIT_S = 5.0
# BullMQ waits at most 10 s for a job in one command, if a delayed one is due later. A client that
# gives up earlier repeats the command for ever, and the delayed job is never looked for.
_SOCKET_TIMEOUT_S = 15.0
# How long BullMQ may take to note the ends of the last deliveries of a machine that leaves.
_CLOSE_S = 3.0
# An id that BullMQ takes as it is: its keys are divided by colons, and it makes numbers itself.
_PLAIN_ID = re.compile(r"(?=.*[^\d])[\w.@-]{1,128}", re.ASCII)
# A job with such an id would replace a list of the queue.
_OWN_NAMES = frozenset(QueueKeys().getKeys(""))


def connection_of(url: str, *, is_patient: bool) -> redis.asyncio.Redis:
    """A client with a pool of connections, for the wait for jobs and all other commands.

    is_patient: repeat a command until Redis answers; else its error is raised.
    """
    backoff = ExponentialBackoff(cap=_LAST_RETRY_S, base=_FIRST_RETRY_S)
    outages = [
        redis.exceptions.BusyLoadingError,
        redis.exceptions.ConnectionError,
        redis.exceptions.TimeoutError,
    ]
    return redis.asyncio.from_url(
        url,
        decode_responses=True,
        protocol=2,
        socket_timeout=_SOCKET_TIMEOUT_S,
        retry=Retry(backoff, _ENDLESS if is_patient else 0),
        retry_on_error=outages if is_patient else [],
    )


def bullmq_id(job_id: str) -> str:
    """The job's id in BullMQ: a job that is submitted twice is queued once."""
    if _PLAIN_ID.fullmatch(job_id) and job_id not in _OWN_NAMES:
        return job_id
    return "h" + hashlib.sha256(job_id.encode(errors="surrogatepass")).hexdigest()


class _Reader(Worker):  # type: ignore[misc]
    """Fails a job that cannot be read. BullMQ's own worker would take it once per lease, until its
    limit of stalls ends it."""

    # Called with a queue and the reason if a job of it was failed.
    on_dropped: Callable[[str, str], None] = staticmethod(lambda queue, reason: None)  # noqa: ARG005

    async def nextJobFromJobData(  # noqa: N802 - BullMQ's
        self,
        job_data: dict[str, Any] | None = None,
        job_id: str | None = None,
        limit_until: int = 0,
        delay_until: int = 0,
        token: str | None = None,
    ) -> Any:
        """BullMQ's own, which makes a job of its fields in Redis."""
        try:
            return await super().nextJobFromJobData(
                job_data, job_id, limit_until, delay_until, token
            )
        except Exception:
            if not job_data:
                raise
        reason = f"the fields of job {job_id} in Redis cannot be read"
        self.on_dropped(self.name, reason)
        job = Job(self, "", {}, {}, job_id)
        job.token = token
        job.deferredFailure = f"{ErrorCode.INVALID_JOB}: {reason}"
        return job


class BullWorker:
    """Takes the jobs of one machine's queues, in the running loop."""

    def __init__(self, machine: Machine, workers: int) -> None:
        self._machine = machine
        self._settings = machine.settings
        self._loop = asyncio.get_running_loop()
        self._capacity = self._settings.slots * workers
        self._threads = ThreadPoolExecutor(self._capacity * len(self._settings.methods))
        self._client = connection_of(self._settings.url.broker, is_patient=True)
        self._stopped = asyncio.Event()
        self._seldom = Seldom()

    async def work(self) -> int:
        """Work until a signal, or until there is nothing to do; the exit status."""
        from upscaled_queue.pulse import Pulse

        machine = self._machine
        for one in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(one, self._stop)
        machine.on_failed = self._leave
        pulse = Pulse(machine, self, self._capacity, self._leave)
        queues = [self._settings.queue_of(method) for method in self._settings.methods]
        workers = [self._worker(queue) for queue in queues]
        pulse.start()
        await self._stopped.wait()
        await self._close(workers)
        await asyncio.to_thread(machine.wait_stopped)
        return machine.exit_status

    async def _close(self, workers: list[Any]) -> None:
        """Wait until the deliveries have ended, and BullMQ knows it. A Redis that is away is not
        waited for: what BullMQ has not been told comes again after its lease."""
        closing = [asyncio.ensure_future(worker.close()) for worker in workers]
        # By then the daemon has exited.
        await asyncio.to_thread(self._machine.given_up.wait)
        _, late = await asyncio.wait(closing, timeout=_CLOSE_S)
        if late:
            # Cancelling `close` itself would not end it.
            await asyncio.wait([asyncio.ensure_future(one.close(force=True)) for one in workers])

    def _worker(self, queue: str) -> Any:
        lease_ms = round(self._settings.lease_s * 1000)
        worker = _Reader(
            queue,
            self._process,
            {
                "connection": self._client,
                "concurrency": self._capacity,
                "lockDuration": lease_ms,
                "stalledInterval": max(100, lease_ms // 3),
                # Redis may wake a frozen machine in place of this one. So this one asks again after
                # these seconds, which is before the pulse takes it for stuck.
                "drainDelay": min(_LONGEST_WAIT_S, self._settings.lease_s / 3),
                "maxStalledCount": self._settings.max_deliveries + _MORE_STALLS,
                "runRetryDelay": round(_LAST_RETRY_S * 1000),
                "removeOnComplete": {"age": self._settings.keep_s},
                "removeOnFail": {"age": self._settings.keep_s},
            },
        )
        worker.on("error", self._log_error)
        worker.on_dropped = self._log_dropped
        return worker

    async def _process(self, job: Any, token: str) -> Message:
        fields = _fields_of(job)
        progress = _ProgressWriter(job)

        def report(news: Message) -> None:
            self._loop.call_soon_threadsafe(progress.put, news)

        outcome: Outcome
        try:
            outcome = await self._loop.run_in_executor(
                self._threads, lambda: self._machine.run(fields, token, on_progress=report)
            )
        except Exception as error:  # noqa: BLE001 - BullMQ would end the job, without a record
            self._machine.log.log("error", "delivery_failed", job_id=job.id, detail=repr(error))
            outcome = GivenBack(_LAST_RETRY_S)
        await progress.end()
        if not isinstance(outcome, Ended):
            await self._delay(job, token, outcome.delay_s)
            raise DelayedError
        if outcome.event["type"] == "error":
            raise UnrecoverableError(failed_reason(outcome.event))
        return outcome.event

    async def _delay(self, job: Any, token: str, delay_s: float) -> None:
        """Have BullMQ deliver the job again after that time, from the time of Redis on: by its own
        clock, a machine that is an hour fast would hold the job for an hour more. Of a slow one it
        is its own time, because a machine takes a delayed job by its own clock."""
        seconds, micros = await self._client.time()
        ahead_s = time.time() - seconds - micros / 1e6
        if ahead_s > 0:
            # A machine that is fast would take the job again at once, and find it early.
            await asyncio.sleep(min(ahead_s, delay_s, _LAST_RETRY_S))
        from_ms = round((time.time() - max(0.0, ahead_s)) * 1000)
        options = {"skipAttempt": True}
        delay_ms = max(1, round(delay_s * 1000))
        await job.backend.moveToDelayed(job.id, from_ms, delay_ms, token, options)

    def renew(self, leases: list[str]) -> None:
        """BullMQ renews its locks itself."""

    def waiting(self, *, is_soon: bool) -> int:
        """Jobs that wait in all queues of this machine."""
        return count_waiting(self._settings, is_soon=is_soon)

    def _log_error(self, error: Exception, *_: Any) -> None:
        if self._seldom.is_due(reason := reason_of(error)):
            self._machine.log.log("warning", "bullmq_error", detail=reason)

    def _log_dropped(self, queue: str, reason: str) -> None:
        self._machine.log.log("error", "message_dropped", queue=queue, detail=reason)

    def _stop(self) -> None:
        self._machine.stop()
        self._stopped.set()

    def _leave(self) -> None:
        """Stop. Called from any thread."""
        self._loop.call_soon_threadsafe(self._stop)


class _ProgressWriter:
    """Writes a job's progress to BullMQ: one write at a time, and after it only the newest progress
    that came meanwhile. A write that fails is left out."""

    def __init__(self, job: Any) -> None:
        self._job = job
        self._newest: Message | None = None
        self._writing: asyncio.Task[None] | None = None

    def put(self, news: Message) -> None:
        self._newest = news
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def end(self) -> None:
        """Write nothing more, because a job's end is its last event."""
        self._newest = None
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        while self._newest is not None:
            news, self._newest = self._newest, None
            with contextlib.suppress(Exception):
                await self._job.updateProgress(news)
        self._writing = None


def work(machine: Machine, workers: int) -> int:
    """Work until a signal, or until there is nothing to do; the exit status."""

    async def run() -> int:
        return await BullWorker(machine, workers).work()

    return asyncio.run(run())


async def submit(settings: Settings, jobs: list[QueuedJob]) -> None:
    """Put the jobs into their queues. A job whose id is there already is left as it is."""
    client = connection_of(settings.url.broker, is_patient=False)
    queues: dict[str, Any] = {}
    try:
        for job in jobs:
            name = settings.queue_of(job.method)
            if name not in queues:
                queues[name] = Queue(name, {"connection": client})
            options = {
                "jobId": bullmq_id(job.job_id),
                "priority": bullmq_priority(job.priority),
                "removeOnComplete": {"age": settings.keep_s},
                "removeOnFail": {"age": settings.keep_s},
            }
            await queues[name].add(job.method, job.fields, options)
    finally:
        await client.aclose()


async def remove(settings: Settings, job: QueuedJob) -> None:
    """Delete an ended job from BullMQ's own records, so that its id can be submitted again."""
    client = connection_of(settings.url.broker, is_patient=False)
    try:
        queue = Queue(settings.queue_of(job.method), {"connection": client})
        await queue.backend.remove(bullmq_id(job.job_id), True)
    finally:
        await client.aclose()


def failed_reason(event: Message) -> str:
    """The `failedReason` of an error, in the form that the Nest module writes and reads. BullMQ
    writes UTF-8 alone, and the error may name a path that is none."""
    code, is_retryable = event["code"], event.get("retryable") is True
    mark = ""
    if is_retryable != ERROR_CODES.get(code, False):
        mark = " (retryable)" if is_retryable else " (not retryable)"
    reason = f"{code}: {event['error']}{mark}"
    return reason.encode(errors="backslashreplace").decode()


def _fields_of(job: Any) -> Any:
    """The job in the protocol's form. Without an id of the producer it gets BullMQ's with the job's
    time, because BullMQ's own is unique only until the queue is emptied."""
    data = job.data
    if not isinstance(data, dict) or data.get("job_id") is not None:
        return data
    name = f"{job.queue.name}/{job.id}/{job.timestamp}"
    if len(name) > MAX_JOB_ID_LENGTH:
        name = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return {**data, "job_id": name}
