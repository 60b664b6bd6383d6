"""The client of a server, `upscaled serve`, in place of the client that starts a daemon.

    caller ── submit ──> one thread per call: upload, events, download
    caller <── future ── call

Any thread may call. One lock guards the state. Futures are settled after its release.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from upscaled.call import Call
from upscaled.callbacks import guarded
from upscaled.errors import (
    DaemonGoneError,
    NoAnswerError,
    UpscaledError,
    closed_error,
    duplicate_error,
    error_of,
    local_error,
)
from upscaled.forks import prepare_for_forks
from upscaled.greenlets import check_greenlets
from upscaled.http.connection import Connection, Exchange, Stop, StoppedError
from upscaled.http.remotejob import RemoteJob
from upscaled.http.threads import Threads
from upscaled.jobline import job_line
from upscaled.messages import Message
from upscaled.protocol import Progress
from upscaled.questions import Answer
from upscaled.result import Result
from upscaled.timers import Timers, wait_s
from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES

T = TypeVar("T")

# Jobs that run at a time: more than a server with some workers needs to be busy.
_MOST_JOBS = 64
_ASK_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """The server's address, and how long the client waits for it; see `UpscalerOptions`."""

    url: str
    key: str | None = None
    # `upscaled serve` restarts within some seconds, a container within half a minute.
    attempts: int = 8
    restart_delay_s: float = 0.2
    close_timeout_s: float = 30.0
    cancel_grace_s: float = 25.0
    line_limit_bytes: int = DEFAULT_LINE_LIMIT_BYTES


class HttpClient:
    """After a fork, the parent's calls end in the child with `ForkedError`."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._connection = Connection(
            options.url, options.key, options.attempts, options.restart_delay_s
        )
        self._begin()
        prepare_for_forks(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._timers = Timers()
        self._threads = Threads(_MOST_JOBS)
        # For questions and cancels, which must not wait for jobs.
        self._errands = Threads(_MOST_JOBS)
        self._open: dict[str, tuple[Call[Any], RemoteJob]] = {}
        self._unreported = 0  # calls whose end is known, but not reported to the caller yet
        self._is_closing = False

    # --- for the caller -----------------------------------------------------------------

    def ready(self) -> Future[Message]:
        """The `ready` of the server's daemon, made of the server's health."""

        def status(health: Message, stop: Stop) -> Message:
            # The server reports its health without a key, so try the key first.
            self._connection.text(Exchange("GET", "/api/jobs?limit=1"), stop)
            names = ("version", "methods", "unavailable", "device")
            fields = {name: health[name] for name in names if health.get(name) is not None}
            return {"type": "status", "message": "ready", **fields}

        return self._ask(_ASK_TIMEOUT_S, status)

    @property
    def pid(self) -> int | None:
        """None: the client starts no process."""
        return None

    def submit(
        self,
        job: Mapping[str, Any],
        make_result: Callable[[Message], Result[T]],
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Call[T]:
        """Submit one job. Nothing is sent for a job that cannot be sent. Raises `InvalidJobError`
        and `ShuttingDownError`."""
        check_greenlets()
        line = job_line(job, self._options.line_limit_bytes)
        call: Call[T] = Call(line, self, make_result)
        if on_progress is not None:
            call.listen(guarded(on_progress))
        remote = RemoteJob(
            self._connection,
            json.loads(line.line),
            is_named=job.get("job_id") is not None,
            on_accepted=lambda: self._accept(call),
            on_progress=call.advance,
        )
        with self._lock:
            if self._is_closing:
                raise closed_error(call.job_id)
            if call.job_id in self._open:
                raise duplicate_error(call.job_id)
            self._open[call.job_id] = call, remote
            call.line = b""
            self._start_deadline(call)
        self._threads.run(lambda: self._run(call, remote))
        return call

    def cancel(self, call: Call[Any]) -> bool:
        """End the call's job; False if it has ended."""
        return self._end(call, local_error("cancelled", "the job was cancelled", call.job_id))

    def cancel_all(self) -> None:
        """End every job in flight."""
        with self._lock:
            calls = [call for call, _ in self._open.values()]
        for call in calls:
            self.cancel(call)

    def ask(self, kind: str, timeout_s: float = _ASK_TIMEOUT_S) -> Answer:
        """The answer to `health`. Raises `ShuttingDownError`."""
        if kind != "health":
            _refuse(kind)
        return self._ask(timeout_s, lambda health, _stop: {"type": "health", **health})

    def replay(self, _job_ids: Sequence[str] | None = None) -> None:
        """Raise `InvalidJobError`: only a daemon has a replay."""
        _refuse("replay")

    def close(self) -> None:
        """Take no more jobs, and wait for the open ones. After the close timeout cancel the
        rest."""
        self.check_may_wait()
        deadline = time.monotonic() + self._options.close_timeout_s
        with self._changed:
            self._is_closing = True
            self._changed.wait_for(
                self._has_reported_all, timeout=wait_s(deadline - time.monotonic())
            )
        self.kill()

    def kill(self) -> None:
        """Cancel every job now, and wait until each has ended."""
        with self._lock:
            self._is_closing = True
            calls = [call for call, _ in self._open.values()]
        for call in calls:
            self._end(call, closed_error(call.job_id))
        with self._changed:
            self._changed.wait_for(self._has_reported_all)

    def _has_reported_all(self) -> bool:
        return not self._open and not self._unreported

    @property
    def is_idle(self) -> bool:
        """True if no call is open."""
        return not self._open

    def check_may_wait(self) -> None:
        """Raise `RuntimeError` in the thread of a call, which its own call waits for."""
        if self._threads.is_here:
            raise RuntimeError(
                "a callback of upscaled must not wait for a job, because its own job waits for it: "
                "submit it there, and wait for it in another thread"
            )
        check_greenlets()

    # --- the ends of calls ----------------------------------------------------------------------

    def _run(self, call: Call[Any], remote: RemoteJob) -> None:
        try:
            outcome: Message | UpscaledError = remote.run()
        except UpscaledError as error:
            outcome = error
        except StoppedError:
            return  # the call was settled when it was stopped
        except Exception as error:  # noqa: BLE001 - a defect must not leave the call open
            outcome = local_error("internal", f"the client failed: {error!r}", call.job_id)
            outcome.__cause__ = error
        self._settle(call, outcome)

    def _accept(self, call: Call[Any]) -> None:
        with self._lock:
            call.is_accepted = True
            if call.ending is None:
                self._start_deadline(call)

    def _start_deadline(self, call: Call[Any]) -> None:
        """Start the job's time. It starts again when the server accepts the job: before that it
        limits the wait."""
        if call.timeout_s is not None:
            if call.timer is not None:
                call.timer.cancel()

            def end() -> None:
                self._end(call, call.late_error())

            call.timer = self._timers.start(call.timeout_s, end)

    def _end(self, call: Call[Any], error: UpscaledError) -> bool:
        """The caller or the deadline ends a call. The server gets some time to end the job."""
        with self._lock:
            held = self._open.get(call.job_id)
            if held is None or held[0] is not call:
                return False
            if call.ending is not None:
                return True
            call.ending = error
            if call.timer is not None:
                call.timer.cancel()
            remote = held[1]
            has_job = remote.cancel()
            if has_job:
                grace_s = self._options.cancel_grace_s
                text = f"{error}; the server did not confirm that within {grace_s:g} s"
                late = error_of({**error.details, "error": text})
                call.timer = self._timers.start(grace_s, lambda: self._settle(call, late))
        if has_job:
            self._errands.run(remote.send_cancel)
        else:
            self._settle(call, error)
        return True

    def _settle(self, call: Call[Any], outcome: Message | UpscaledError) -> None:
        """Settle the call, unless it is settled already."""
        with self._lock:
            held = self._open.get(call.job_id)
            if held is None or held[0] is not call:
                return
            del self._open[call.job_id]
            self._unreported += 1
            if call.timer is not None:
                call.timer.cancel()
            # For the server every end by the client is a cancel; the caller gets the real reason.
            was_cancelled = isinstance(outcome, UpscaledError) and outcome.code == "cancelled"
            if was_cancelled and call.ending is not None and call.ending.code != "cancelled":
                outcome = call.ending
        held[1].stop()
        call.settle(outcome)
        with self._changed:
            self._unreported -= 1
            self._changed.notify_all()

    def _ask(self, timeout_s: float, answer_of: Callable[[Message, Stop], Message]) -> Answer:
        check_greenlets()
        if self._is_closing:
            raise DaemonGoneError("the client is closed")
        answer: Answer = Future()
        answer.set_running_or_notify_cancel()
        stop = Stop()
        timer = self._timers.start(timeout_s, stop.set)

        def ask() -> None:
            try:
                answer.set_result(answer_of(self._health(stop), stop))
            except StoppedError:
                text = f"the server did not answer within {timeout_s:g} s"
                answer.set_exception(NoAnswerError(text))
            except Exception as error:  # noqa: BLE001 - the caller's to see
                answer.set_exception(error)
            timer.cancel()

        self._errands.run(ask)
        return answer

    def _health(self, stop: Stop) -> Message:
        # A server that drains or has failed answers with 503.
        text = self._connection.text(Exchange("GET", "/api/health", also_ok=503), stop)
        with contextlib.suppress(ValueError):  # a proxy's page
            health = json.loads(text)
            if isinstance(health, dict) and isinstance(health.get("status"), str):
                return health
        raise self._connection.lost("it answered without its health")

    # --- forks ------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Take the lock, so that no change is half done in the child."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Release the lock."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start again: the threads and the open calls belong to the parent."""
        calls = [call for call, _ in self._open.values()]
        self._begin()
        for call in calls:
            call.forget()


def _refuse(kind: str) -> NoReturn:
    raise local_error(
        "unknown_method", f"{kind} is for a client that starts a daemon: a server has none"
    )
