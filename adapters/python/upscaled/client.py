"""A daemon of one's own, started when it is needed and again if it dies. `Upscaler` and
`AsyncUpscaler` are what one uses; both stand on this.

    caller ── submit ──> backlog ──> channel ──> daemon
    caller <── future ── call <── reader thread <──┘

Any thread may call. One lock guards the state; futures are settled, and callbacks called, after it
was released.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from upscaled.backlog import Backlog
from upscaled.call import Call
from upscaled.command import default_command
from upscaled.daemon import Daemon
from upscaled.errors import (
    DaemonGoneError,
    ForkedError,
    UpscaledError,
    error_of,
    local_error,
)
from upscaled.forks import tell_of_forks
from upscaled.greenlets import check_greenlets
from upscaled.jobline import Message, check_id, job_line, line_of
from upscaled.questions import Answer, Questions
from upscaled.restarts import Restarts
from upscaled.result import Result
from upscaled.timers import Timers

T = TypeVar("T")

# A daemon answers at once; one that is being started takes some seconds.
ASK_TIMEOUT_S = 60.0

# From a daemon's first `ready` to the end of a call that its journal does not tell of.
_RESUME_S = 30.0

# Ids in one `replay`, so that its line stays short.
_REPLAYED_IDS = 1000

_LOG = logging.getLogger("upscaled")
# A library's log is silent until its user asks for it.
_LOG.addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """How the daemon is started and ended; see `Upscaler`."""

    command: Sequence[str] | None = None
    args: Sequence[str] = ()
    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str] | None = None
    journal: str | os.PathLike[str] | None = None
    show_log: bool = False
    attempts: int = 5
    restart_delay_s: float = 0.2
    close_timeout_s: float = 30.0
    cancel_grace_s: float = 25.0
    line_limit_bytes: int = 32 * 1024 * 1024
    on_message: Callable[[Message], None] | None = None


class Client:
    """See `ClientOptions`. After a fork the parent's calls end in the child with `ForkedError`, and
    the child's first call starts a daemon of its own."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._begin()
        tell_of_forks(self)

    def _begin(self) -> None:
        # Reentrant: a signal handler may end the client in the middle of anything.
        self._lock = threading.RLock()
        self._deferred: deque[Callable[[], None]] = deque()
        self._timers = Timers()
        self._restarts = Restarts(self._options.attempts, self._options.restart_delay_s)
        self._calls: dict[str, Call[Any]] = {}
        self._backlog = Backlog()
        self._questions = Questions(self._timers)
        self._daemon: Daemon | None = None
        self._is_started = False
        self._is_closing = False
        # Once the daemon's input has ended, nothing can be sent again.
        self._has_ended_input = False
        self._end: DaemonGoneError | None = None
        self._ready: Future[Message] = Future()
        self._ready.set_running_or_notify_cancel()
        self._written = threading.Event()
        self.ended = threading.Event()

    # --- what a caller does -----------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon, if there was none yet; do not wait for it."""
        with self._lock:
            if not self._is_started and not self._is_closing:
                self._is_started = True
                self._spawn()
        self._flush()

    def ready(self) -> Future[Message]:
        """What the daemon said when it first got ready."""
        self.start()
        with self._lock:
            end = self._closed_error() if self._is_closing else self._end
            if end is None or self._ready.done():
                return self._ready
        failed: Future[Message] = Future()
        failed.set_exception(end)
        return failed

    @property
    def pid(self) -> int | None:
        """The daemon's process; None while there is none."""
        daemon = self._daemon
        return None if daemon is None else daemon.pid

    def submit(
        self,
        job: Mapping[str, Any],
        make_result: Callable[[Message], Result[T]],
        on_progress: Callable[[Any], None] | None = None,
    ) -> Call[T]:
        """Have one job done. What cannot be sent is refused before anything is written: raises
        `InvalidJobError`, `ShuttingDownError`, or `DaemonGoneError` if no daemon can be started."""
        check_greenlets()
        line = job_line(job, self._options.line_limit_bytes)
        call: Call[T] = Call(line, self, make_result)
        if on_progress is not None:
            call.listen(_guarded(on_progress))
        self.start()
        with self._lock:
            refusal = self._refusal(call.job_id)
            if refusal is not None:
                raise refusal
            self._calls[call.job_id] = call
            self._start_deadline(call)
            self._backlog.add(call)
            self._write()
        self._flush()
        return call

    def cancel(self, call: Call[Any]) -> bool:
        """End the call's job; false if it has ended."""
        with self._lock:
            if self._calls.get(call.job_id) is not call:
                return False
            self._end_call(call, local_error("cancelled", "the job was cancelled", call.job_id))
        self._flush()
        return True

    def cancel_all(self) -> None:
        """End every job in flight."""
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            self.cancel(call)

    def ask(self, kind: str, timeout_s: float = ASK_TIMEOUT_S) -> Answer:
        """The answer to `health` or `trim`."""
        check_greenlets()
        self.start()
        with self._lock:
            end = self._closed_error() if self._is_closing else self._end
            if end is not None:
                raise end
            answer = self._questions.ask(kind, timeout_s)
            self._write()
        self._flush()
        return answer

    def replay(self, job_ids: Sequence[str] | None = None) -> None:
        """Have a daemon with a journal say again how these jobs ended, or all: see `on_message`."""
        message: Message = {"type": "replay"}
        if job_ids is not None:
            for job_id in job_ids:
                check_id(job_id)
            message["job_ids"] = list(job_ids)
        line = line_of(message)
        self.start()
        with self._lock:
            if self._daemon is not None:
                self._daemon.channel.send(line)

    def close(self) -> None:
        """Take no more jobs, let the daemon finish those that it has, and end it: after the close
        timeout by SIGTERM, and then by SIGKILL of its process group."""
        self.check_may_wait()
        deadline = time.monotonic() + self._options.close_timeout_s
        with self._lock:
            self._is_closing = True
            if self._daemon is None:
                self._finish(self._closed_error())
            self._write()
        self._flush()
        try:
            if not self.ended.is_set():
                self._written.wait(deadline - time.monotonic())
            with self._lock:
                self._has_ended_input = True
                if self._daemon is not None:
                    self._daemon.end_input(max(0.0, deadline - time.monotonic()))
            self.ended.wait()
        except BaseException:  # a Ctrl-C
            self.kill()
            raise

    def kill(self) -> None:
        """End the daemon now, with every process that it started. Open calls fail."""
        with self._lock:
            self._is_closing = self._has_ended_input = True
            daemon = self._daemon
            if daemon is None:
                self._finish(self._closed_error())
            else:
                daemon.kill()
        self._flush()
        self.ended.wait()

    @property
    def is_idle(self) -> bool:
        """Whether no call is open."""
        return not self._calls

    def check_may_wait(self) -> None:
        """Raise `RuntimeError` in the thread that reads for all, because it would wait for ever."""
        daemon = self._daemon
        if daemon is not None and daemon.channel.is_read_here:
            raise RuntimeError(
                "a callback of upscaled must not wait for a job, because it runs in the thread "
                "that reads the jobs' ends: submit it there, and wait for it in another thread"
            )
        check_greenlets()

    # --- under the lock ---------------------------------------------------------------------

    def _refusal(self, job_id: str) -> UpscaledError | None:
        if self._is_closing:
            return local_error("shutting_down", "the client is closed", job_id)
        if self._end is not None:
            return _of_job(self._end, job_id)
        if job_id in self._calls or self._backlog.holds(job_id):
            return local_error("duplicate_job", f"job {job_id!r} is in flight", job_id)
        return None

    def _closed_error(self) -> DaemonGoneError:
        return DaemonGoneError("the client is closed")

    def _start_deadline(self, call: Call[Any]) -> None:
        """Its time counts from now; until a daemon has accepted it, that bounds the wait."""
        if call.timeout_s is None:
            return
        if call.timer is not None:
            call.timer.cancel()
        text = f"timeout_s is over: {call.timeout_s:g} s"
        error = local_error("deadline_exceeded", text, call.job_id)

        def end() -> None:
            with self._lock:
                if self._calls.get(call.job_id) is call:
                    self._end_call(call, error)
            self._flush()

        call.timer = self._timers.start(call.timeout_s, end)

    def _end_call(self, call: Call[Any], error: UpscaledError) -> None:
        """The caller or the clock ends a call. The daemon gets some time to end its job."""
        if call.ending is not None:
            return
        call.ending = error
        if self._backlog.is_waiting(call):
            self._settle(call, error)
            return
        self._send_cancel(call)
        grace_s = self._options.cancel_grace_s
        late = dict(error.details)
        late["error"] = (
            f"{error}; the daemon did not confirm within {grace_s:g} s that the job has ended"
        )

        def settle() -> None:
            with self._lock:
                self._settle(call, error_of(late))
            self._flush()

        if call.timer is not None:
            call.timer.cancel()
        call.timer = self._timers.start(grace_s, settle)

    def _send_cancel(self, call: Call[Any]) -> None:
        if self._daemon is not None:
            self._daemon.channel.send(line_of({"type": "cancel", "job_id": call.job_id}))

    def _settle(self, call: Call[Any], outcome: Message | UpscaledError) -> None:
        if self._calls.get(call.job_id) is not call:
            return
        del self._calls[call.job_id]
        self._backlog.remove(call)
        if call.timer is not None:
            call.timer.cancel()
        self._deferred.append(lambda: call.settle(outcome))
        self._write()

    def _write(self) -> None:
        """Write what waits, as long as there is room."""
        channel = None if self._daemon is None else self._daemon.channel
        if channel is not None:
            self._questions.write(channel)
            while channel.has_room and (call := self._backlog.take()) is not None:
                channel.send(call.line)
        if self._is_closing and (channel is None or self._backlog.is_written):
            self._written.set()

    def _spawn(self) -> None:
        options = self._options
        self._restarts.handle_start()
        command = [*(options.command or default_command()), *options.args]
        if options.journal is not None:
            command += ["--journal", os.fspath(options.journal)]
        try:
            self._daemon = Daemon(
                command,
                self,
                self._timers,
                cwd=options.cwd,
                env=options.env,
                show_log=options.show_log,
            )
        except (OSError, ValueError) as error:
            gone = DaemonGoneError(f"the daemon {command[0]} cannot be started: {error}")
            gone.__cause__ = error
            self._deferred.append(lambda: self.on_gone(gone))
            return
        self._daemon.start()
        self._resume()
        self._write()

    def _resume(self) -> None:
        """Ask the journal for the ends of what the daemon before had accepted."""
        held = [call for call in self._calls.values() if self._backlog.holds(call.job_id)]
        if not held or self._daemon is None:
            return
        ids = [call.job_id for call in held]
        for at in range(0, len(ids), _REPLAYED_IDS):
            line = line_of({"type": "replay", "job_ids": ids[at : at + _REPLAYED_IDS]})
            self._daemon.channel.send(line)
        for call in held:
            if call.ending is not None:
                self._send_cancel(call)

    def _finish(self, error: DaemonGoneError) -> None:
        """Nothing more will be done: end what is open."""
        if self._end is not None:
            return
        self._end = error
        for call in list(self._calls.values()):
            self._settle(call, _of_job(error, call.job_id))
        self._questions.fail_all(error)
        self._written.set()

        def tell() -> None:
            if not self._ready.done():
                self._ready.set_exception(error)
            self.ended.set()

        self._deferred.append(tell)

    def _flush(self) -> None:
        """Do what was to wait until the lock was released."""
        while self._deferred:
            with contextlib.suppress(IndexError):
                self._deferred.popleft()()

    # --- the daemon's listener --------------------------------------------------------------

    def on_message(self, message: Message) -> None:
        """In the reader's thread: a message of the daemon."""
        kind, job_id = message.get("type"), message.get("job_id")
        with self._lock:
            self._restarts.handle_message()
            call = self._calls.get(job_id) if isinstance(job_id, str) else None
            if kind == "status":
                if message.get("message") == "ready":
                    self._handle_ready(message)
            elif kind == "health":
                self._questions.answer(message)
            elif isinstance(job_id, str):
                self._handle_job(kind, job_id, call, message)
        if kind == "progress" and call is not None:
            call.advance(message)
        self._flush()
        if self._options.on_message is not None:
            _guarded(self._options.on_message)(message)

    def _handle_job(
        self, kind: object, job_id: str, call: Call[Any] | None, message: Message
    ) -> None:
        if kind in ("accepted", "progress"):
            if kind == "accepted":
                self._backlog.accepted(job_id)
            if call is not None:
                self._accept(call)
            if self._is_closing:
                self._write()
        elif kind == "error" and call is not None and self._waits_again(call, message):
            self._write()
        elif kind in ("result", "error"):
            self._backlog.ended(job_id)
            if call is None:
                self._write()
            else:
                self._settle(call, message if kind == "result" else call.told(message))

    def _accept(self, call: Call[Any]) -> None:
        call.is_resuming = False
        if not call.is_accepted:
            call.is_accepted = True
            call.line = b""
            if call.ending is None:
                self._start_deadline(call)

    def _waits_again(self, call: Call[Any], message: Message) -> bool:
        """Whether a job that was not accepted can wait: for room, or for the next daemon."""
        if call.is_accepted or call.ending is not None:
            return False
        code = message.get("code")
        if code == "queue_full":
            return not self._has_ended_input and self._backlog.wait_for_room(call)
        if code != "shutting_down" or self._is_closing or not self._restarts.may_lose(call):
            return False
        self._backlog.wait_for_next(call)
        return True

    def _handle_ready(self, message: Message) -> None:
        self._restarts.handle_ready()
        if not self._ready.done():
            self._deferred.append(lambda: _set_once(self._ready, message))
        lost = [call for call in self._calls.values() if call.is_resuming]
        if lost:
            self._timers.start(_RESUME_S, lambda: self._give_up_resuming(lost))

    def _give_up_resuming(self, calls: list[Call[Any]]) -> None:
        with self._lock:
            for call in calls:
                if call.is_resuming:
                    text = "the daemon went away, and its journal does not tell of this job"
                    self._settle(call, DaemonGoneError(text, job_id=call.job_id))
        self._flush()

    def on_room(self) -> None:
        """In the writer's thread: there is room again."""
        with self._lock:
            self._write()
        self._flush()

    def on_input_lost(self) -> None:
        """It takes no more jobs, and may finish those that it has. Those that it did not accept go
        to the next daemon."""
        with self._lock:
            if self._daemon is not None:
                self._daemon.end_input(self._options.close_timeout_s)

    def on_gone(self, error: DaemonGoneError) -> None:
        """The daemon has ended, or could not be started."""
        with self._lock:
            self._daemon = None
            self._questions.fail_all(error)
            if self._is_closing:
                self._finish(error)
            else:
                delay_s = self._restarts.delay_after(error)
                self._keep(error, has_next=delay_s is not None)
                if delay_s is None:
                    self._finish(error)
                else:
                    self._timers.start(delay_s, self._spawn_again)
        self._flush()

    def _spawn_again(self) -> None:
        with self._lock:
            if not self._is_closing and self._daemon is None:
                self._spawn()
        self._flush()

    def _keep(self, error: DaemonGoneError, *, has_next: bool) -> None:
        """A job that no daemon has accepted is sent to the next one, and one that was accepted is
        the journal's, if there is one. The others end with the daemon."""
        waiting, held = [], []
        for call in list(self._calls.values()):
            is_unsent = self._backlog.is_waiting(call)
            is_lost = not call.is_accepted and call.ending is None
            if is_unsent or (is_lost and self._restarts.may_lose(call)):
                waiting.append(call)
            elif call.is_accepted and self._options.journal is not None and has_next:
                call.is_resuming = True
                held.append(call)
        kept = {call.job_id for call in (*waiting, *held)}
        self._backlog.restart(waiting, held)
        for call in list(self._calls.values()):
            if call.job_id not in kept:
                self._settle(call, _of_job(error, call.job_id))

    # --- forks ------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Nothing may be half done in the child."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """The daemon, its threads and the open calls are the parent's."""
        daemon, calls = self._daemon, list(self._calls.values())
        self._begin()
        if daemon is not None:
            daemon.forget()
        for call in calls:
            text = "the job is the parent's of this forked process, and its end is told there alone"
            call.forget(ForkedError(text, job_id=call.job_id))


def _of_job(error: DaemonGoneError, job_id: str) -> DaemonGoneError:
    own = DaemonGoneError(str(error), status=error.status, job_id=job_id)
    own.__cause__ = error.__cause__
    return own


def _set_once(future: Future[Message], message: Message) -> None:
    if not future.done():
        future.set_result(message)


def _guarded(callback: Callable[[Any], None]) -> Callable[[Any], None]:
    """What a user's function raises is the user's, and must not end our reading."""

    def call(message: Any) -> None:
        try:
            callback(message)
        except Exception:  # noqa: BLE001 - whatever it is
            _LOG.exception("a callback failed")

    return call
