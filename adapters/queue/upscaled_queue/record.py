"""The record: one end per job, written only if there is none, together with its notification.

Jobs are delivered at least once. A delivery that finds a record does not run, and of two that ran
at the same time the first end counts, so each job has one result.

    upscaled:record:ID    the terminal event
    upscaled:job:ID       cancelled, not_before, progress, machine, given_at; a dead letter's job;
                          webhook_id, and in webhook what became of it
    upscaled:starts:ID    a member for each delivery that was started
    upscaled:outbox       a stream of the ids that ended, with the receivers of their webhooks
    upscaled:dead         ids that ended with an error, by time
    upscaled:running:M, upscaled:machines:M    ids and machines of a method, by their last sign
    upscaled:webhook:ID, upscaled:webhooks:HOST    webhooks to be sent, see `outbox`
"""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from typing import Any, Literal, NamedTuple, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from upscaled_protocol.backoff import pauses
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.lines import decode_line, encode_line
from upscaled_queue import scripts
from upscaled_queue.job import Message, QueuedJob, error_event, without_picture
from upscaled_queue.outages import is_outage
from upscaled_queue.queueurl import QueueUrlError, shown
from upscaled_queue.webhooks import Webhook

T = TypeVar("T")

CANCEL_CHANNEL = "upscaled:cancel"
OUTBOX = "upscaled:outbox"
_DEAD = "upscaled:dead"

# A stranger's job may have half a surrogate pair in its id or method. Its end is recorded too. What
# a stranger has written in the place of a record may be no text at all.
ENCODING_ERRORS = "upscaled_queue.record"
# A Redis that does not answer for so long is away.
_SOCKET_TIMEOUT_S = 5.0
# Between two tries.
_FIRST_DELAY_S = 0.05
_LAST_DELAY_S = 1.0
# The server waits so long for a new id before it answers with none.
_FOLLOW_MS = 1000
# Jobs per question to Redis.
_BATCH = 500


def _pass_or_replace(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogatepass")(error)
    except UnicodeError:
        return codecs.replace_errors(error)


codecs.register_error(ENCODING_ERRORS, _pass_or_replace)


class RecordLostError(Exception):
    """Raised when the machine must leave while the record cannot be reached."""


class Start(NamedTuple):
    """What a delivery is to do. `record`: for `ended`. `number`: seconds for `early`, else the
    deliveries so far."""

    kind: Literal["run", "ended", "cancelled", "early", "poisoned"]
    record: Message
    number: float


def _read_end(job_id: str, text: str) -> Message:
    """The job's end in its record. A record that is none ends the job as well: else each delivery
    of it would fail, and it would be delivered for ever."""
    try:
        event = decode_line(text.encode(errors=ENCODING_ERRORS))
    except ValueError:
        event = None
    if isinstance(event, dict) and event.get("job_id") == job_id:
        has_reason = isinstance(event.get("code"), str) and isinstance(event.get("error"), str)
        if event.get("type") == "result" or (event.get("type") == "error" and has_reason):
            return event
    error = JobError(
        ErrorCode.INTERNAL,
        f"the record of job {job_id} is no end of a job: give the job another id, or delete "
        f"upscaled:record:{job_id} from Redis",
    )
    return error_event(error, job_id)


def connect(url: str) -> redis.Redis:
    """A client that fails at once: each user has its own way to go on. Raises `QueueUrlError` for
    an option of the URL that the client does not take."""
    try:
        client = redis.Redis.from_url(
            url,
            decode_responses=True,
            encoding_errors=ENCODING_ERRORS,
            socket_timeout=_SOCKET_TIMEOUT_S,
            socket_connect_timeout=_SOCKET_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        # The client itself looks at most of them only with its first command.
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError, redis.RedisError) as error:
        raise QueueUrlError(f"the URL {shown(url)} has a wrong option: {error}") from None
    return client


class Records:
    """The record of one Redis, for any number of threads.

    given_up: from when on a machine that leaves does not wait for Redis. None: do not wait at all,
    as a command does not; then the client's own errors are raised.
    """

    def __init__(self, url: str, keep_s: int, given_up: Event | None = None) -> None:
        self.redis = connect(url)
        self._keep_s = keep_s
        self._given_up = given_up
        script = self.redis.register_script
        self._begin, self._settle = script(scripts.BEGIN), script(scripts.SETTLE)
        self._give_back, self._touch = script(scripts.GIVE_BACK), script(scripts.TOUCH)
        self._delete = script(scripts.DELETE)

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """No outage may end a delivery: whatever the engine makes of an exception, the job must
        not be lost. Raises `RecordLostError`."""
        pauses_s = pauses(_FIRST_DELAY_S, _LAST_DELAY_S)
        while True:
            try:
                return call()
            except (redis.RedisError, OSError) as error:
                if self._given_up is None or not is_outage(error):
                    raise
                if self._given_up.wait(next(pauses_s)):
                    raise RecordLostError("the record cannot be reached") from error

    # --- a machine's steps ----------------------------------------------------------------------

    def begin(self, job: QueuedJob, token: str, machine: str, max_deliveries: int) -> Start:
        """Count a delivery before it starts, if it is to start."""
        keys = [f"upscaled:record:{job.job_id}", *self._keys(job)]
        args: list[Any] = [token, job.job_id, machine, max_deliveries, self._keep_s]
        kind, text = self._patiently(lambda: self._begin(keys, args))
        if kind == "ended":
            return Start(kind, _read_end(job.job_id, text), 0)
        return Start(kind, {}, float(text or 0))

    def settle(
        self,
        job_id: str,
        method: str,
        event: Message,
        job: Message | None,
        webhook: Webhook | None = None,
    ) -> Message:
        """Write the job's end, and the webhook that tells it, unless it has one; the one that
        counts. job: kept for `requeue` if the end is an error."""
        line = encode_line(event).decode().rstrip("\n")
        kept = without_picture(job) if job is not None else None
        keys = [
            f"upscaled:record:{job_id}",
            f"upscaled:job:{job_id}",
            f"upscaled:running:{method}",
            OUTBOX,
            _DEAD,
        ]
        args: list[Any] = [
            line,
            job_id,
            self._keep_s,
            encode_line(kept).decode() if kept is not None else "",
            int(event["type"] == "error"),
            *(webhook or ("", "", "", "")),
        ]
        before = self._patiently(lambda: self._settle(keys, args))
        return _read_end(job_id, before) if before and before != line else event

    def give_back(
        self, job: QueuedJob, token: str, *, delay_s: float = 0.0, is_counted: bool = False
    ) -> None:
        """The delivery ends without an end of the job."""
        args: list[Any] = [token, job.job_id, delay_s, self._keep_s, int(not is_counted)]
        self._patiently(lambda: self._give_back(self._keys(job), args))

    def touch(
        self, machine: str, methods: Sequence[str], running: Sequence[str], lease_s: float
    ) -> list[str]:
        """This machine is alive and runs these; those of them that are to be cancelled. Raises
        `redis.RedisError`."""
        keys = [f"upscaled:{kind}:{one}" for kind in ("machines", "running") for one in methods]
        return cast(list[str], self._touch(keys, [machine, lease_s, len(methods), *running]))

    def leave(self, machine: str, methods: Sequence[str]) -> None:
        """This machine is no more. Raises `redis.RedisError`."""
        for method in methods:
            self.redis.zrem(f"upscaled:machines:{method}", machine)

    def write_progress(self, news: Mapping[str, Message]) -> None:
        """Write the newest progress of these jobs. Raises `redis.RedisError`."""
        with self.redis.pipeline(transaction=False) as pipe:
            for job_id, progress in news.items():
                key = f"upscaled:job:{job_id}"
                pipe.hset(key, "progress", encode_line(progress).decode())
                pipe.expire(key, self._keep_s)
            pipe.execute()

    # --- a producer's questions -----------------------------------------------------------------

    def mark_given(self, job_id: str) -> None:
        """The job was put into the queue."""
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.hset(f"upscaled:job:{job_id}", "given_at", repr(time.time()))
            pipe.expire(f"upscaled:job:{job_id}", self._keep_s)
            pipe.execute()

    def is_given(self, job_id: str) -> bool:
        """Whether the job was put into the queue, or has ended."""
        return not self.not_given([job_id])

    def not_given(self, job_ids: Sequence[str]) -> list[str]:
        """Those jobs that were neither put into the queue nor have ended, as far as Redis knows. If
        they were, Redis has lost them."""
        missing = []
        for start in range(0, len(job_ids), _BATCH):
            some = job_ids[start : start + _BATCH]
            with self.redis.pipeline(transaction=False) as pipe:
                for job_id in some:
                    pipe.hexists(f"upscaled:job:{job_id}", "given_at")
                    pipe.exists(f"upscaled:record:{job_id}")
                known = iter(pipe.execute())
            pairs = zip(some, known, known, strict=True)
            missing += [
                job_id for job_id, is_given, has_ended in pairs if not (is_given or has_ended)
            ]
        return missing

    def end_of(self, job_id: str) -> Message | None:
        """The job's terminal event; None if it has not ended, or its record was not kept."""
        text = cast(str | None, self.redis.get(f"upscaled:record:{job_id}"))
        return None if text is None else _read_end(job_id, text)

    def status_of(self, job_id: str, lease_s: float) -> Message:
        """What is known of the job: `state` is ended, running, waiting or unknown."""
        # From the last step of a job's way to the first, so that none is missed between two reads.
        event = self.end_of(job_id)
        is_running = self._last_sign(job_id) > cast(Any, self.redis.time())[0] - lease_s
        job = cast(dict[str, str], self.redis.hgetall(f"upscaled:job:{job_id}"))
        starts = self.redis.scard(f"upscaled:starts:{job_id}")
        # A cancel is noted for any id.
        state = "waiting" if job.keys() - {"cancelled"} else "unknown"
        if event is not None:
            state = "ended"
        elif is_running:
            state = "running"
        status: Message = {"job_id": job_id, "state": state, "deliveries": starts}
        if state == "running":
            status["machine"] = job.get("machine")
        if "progress" in job and event is None:
            status["progress"] = decode_line(job["progress"].encode())
        if "cancelled" in job and event is None:
            status["is_cancelled"] = True
        if event is not None:
            status["event"] = event
        if "webhook_id" in job and event is not None:
            status["webhook"] = self._webhook_of(job)
        return status

    def _webhook_of(self, job: Mapping[str, str]) -> Message:
        """What became of a job's webhook: `state` is waiting, delivered or given_up."""
        if "webhook" in job:
            return cast(Message, decode_line(job["webhook"].encode()))
        attempts = self.redis.hget(f"upscaled:webhook:{job['webhook_id']}", "attempts")
        return {"state": "waiting", "attempts": int(cast(str, attempts or 0))}

    def cancel(self, job_id: str) -> bool:
        """Have the job end as cancelled, now or when it is delivered; false if it has ended."""
        if self.end_of(job_id) is not None:
            return False
        self.redis.hset(f"upscaled:job:{job_id}", "cancelled", "1")
        self.redis.expire(f"upscaled:job:{job_id}", self._keep_s)
        self.redis.publish(CANCEL_CHANNEL, job_id)
        return True

    def dead(self) -> Iterator[Message]:
        """The ends of the jobs that failed, the oldest first."""
        for job_id in cast(list[str], self.redis.zrange(_DEAD, 0, -1)):
            event = self.end_of(job_id)
            if event is not None and event["type"] == "error":
                yield event

    def forget(self, job_id: str) -> Message | None:
        """Delete the job's end and its starts, so that it may run again: the job as it was given;
        None if it was not kept. Its next end has a webhook of its own."""
        kept = cast(str | None, self.redis.hget(f"upscaled:job:{job_id}", "job"))
        if kept is None:
            return None
        self.delete(job_id)
        return cast(Message, decode_line(kept.encode()))

    def delete(self, job_id: str) -> None:
        """Delete all that is known of an ended job, also a webhook that waits."""
        keys = [f"upscaled:{kind}:{job_id}" for kind in ("record", "job", "starts")]
        self._delete([*keys, _DEAD], [job_id, uuid.uuid4().hex, self._keep_s])

    def counts(self, method: str, lease_s: float) -> tuple[int, int]:
        """Jobs that run, and machines that serve the method. No script, because a Redis without
        memory takes none, and then machines may be needed most."""
        seconds, micros = self.redis.time()
        alive = f"({seconds + micros / 1e6 - lease_s}"
        with self.redis.pipeline(transaction=False) as pipe:
            for kind in ("running", "machines"):
                pipe.zcount(f"upscaled:{kind}:{method}", alive, "+inf")
            running, machines = pipe.execute()
        return running, machines

    def ends(self, *, is_followed: bool) -> Iterator[Message]:
        """The ends of all jobs, in their order; with `is_followed` also of those to come."""
        at = "0"
        while True:
            block = _FOLLOW_MS if is_followed else None
            found = cast(Any, self.redis.xread({OUTBOX: at}, count=1000, block=block))
            if not found and not is_followed:
                return
            for _, entries in found or ():
                for entry_id, entry in entries:
                    at = entry_id
                    event = self.end_of(entry["job_id"])
                    if event is not None:
                        yield event

    def ends_of(self, job_ids: Sequence[str]) -> Iterator[Message]:
        """The terminal events of those jobs that have ended."""
        for start in range(0, len(job_ids), _BATCH):
            some = job_ids[start : start + _BATCH]
            found = cast(
                list[str | None], self.redis.mget([f"upscaled:record:{one}" for one in some])
            )
            for job_id, text in zip(some, found, strict=True):
                if text is not None:
                    yield _read_end(job_id, text)

    def progress_of(self, job_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The newest progress of those jobs that have one, as lines."""
        for start in range(0, len(job_ids), _BATCH):
            some = job_ids[start : start + _BATCH]
            with self.redis.pipeline(transaction=False) as pipe:
                for job_id in some:
                    pipe.hget(f"upscaled:job:{job_id}", "progress")
                found = pipe.execute()
            yield from ((job_id, text) for job_id, text in zip(some, found, strict=True) if text)

    def follower(self) -> Follower:
        """The ids of the jobs that end from now on."""
        return Follower(self.redis)

    def _last_sign(self, job_id: str) -> float:
        methods = cast(Iterator[str], self.redis.scan_iter("upscaled:running:*"))
        signs = [self.redis.zscore(key, job_id) for key in methods]
        return max((sign for sign in signs if sign is not None), default=0.0)

    @staticmethod
    def _keys(job: QueuedJob) -> list[str]:
        return [
            f"upscaled:job:{job.job_id}",
            f"upscaled:starts:{job.job_id}",
            f"upscaled:running:{job.method}",
        ]


class Follower:
    """Reads the outbox from its end, as that is at the first answer of Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._at: str | None = None

    def ended(self) -> Iterator[str]:
        """The ids that ended since the last call. Raises `redis.RedisError`."""
        if self._at is None:
            last = cast(Any, self._redis.xrevrange(OUTBOX, count=1))
            self._at = last[0][0] if last else "0"
        for _, entries in cast(Any, self._redis.xread({OUTBOX: self._at}, count=1000)) or ():
            for entry_id, entry in entries:
                self._at = entry_id
                yield entry["job_id"]
