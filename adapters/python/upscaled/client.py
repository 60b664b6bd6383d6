"""The client that starts a daemon, and starts it again if it exits. `Upscaler` and `AsyncUpscaler`
are built on it.

    caller ── submit ──> backlog ──> channel ──> daemon
    caller <── future ── call <── reader thread <──┘

Any thread may call. One lock guards the state. Futures are settled, and callbacks called, after its
release.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from upscaled.call import Call
from upscaled.callbacks import guarded
from upscaled.command import default_command
from upscaled.daemon import Daemon
from upscaled.delivery import Delivery
from upscaled.errors import DaemonGoneError, local_error
from upscaled.forks import prepare_for_forks, wait_for_fork
from upscaled.greenlets import check_greenlets
from upscaled.jobline import check_id, job_line, line_of
from upscaled.messages import Message
from upscaled.options import ClientOptions
from upscaled.protocol import Progress
from upscaled.questions import Answer, Questions
from upscaled.restarts import Restarts
from upscaled.result import Result
from upscaled.timers import Timers, wait_s

T = TypeVar("T")

# A daemon answers at once; one that is being started takes some seconds.
ASK_TIMEOUT_S = 60.0

# A library's log is silent until its user asks for it.
_LOG = logging.getLogger("upscaled")
_LOG.addHandler(logging.NullHandler())


class Client:
    """After a fork, the parent's calls end in the child with `ForkedError`, and the child's first
    call starts another daemon."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._begin()
        prepare_for_forks(self)

    def _begin(self) -> None:
        options = self._options
        self._timers = Timers()
        self._restarts = Restarts(options.attempts, options.restart_delay_s)
        self._delivery = Delivery(options, self._restarts, self._timers)
        self._lock = self._delivery.lock
        self._questions = Questions(self._timers)
        self._daemon: Daemon | None = None
        self._is_started = False
        self._end: DaemonGoneError | None = None
        self._ready: Future[Message] = Future()
        self._ready.set_running_or_notify_cancel()
        self._ended = threading.Event()

    # --- for the caller -----------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon, if none was started yet; do not wait for it."""
        if self._is_started:
            return
        with self._lock:
            if not self._is_started and not self._delivery.is_closing:
                self._is_started = True
                self._spawn()
        self._delivery.flush()

    def ready(self) -> Future[Message]:
        """The daemon's first `ready`."""
        self.start()
        with self._lock:
            if self._delivery.is_closing and not self._is_started:
                self._finish(_closed())
        self._delivery.flush()
        return self._ready

    @property
    def pid(self) -> int | None:
        """The daemon's process; None while there is none."""
        daemon = self._daemon
        return None if daemon is None else daemon.pid

    def submit(
        self,
        job: Mapping[str, Any],
        make_result: Callable[[Message], Result[T]],
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Call[T]:
        """Submit one job. Nothing is written for a job that cannot be sent. Raises
        `InvalidJobError`, `ShuttingDownError`, and `DaemonGoneError` if no daemon can be
        started."""
        check_greenlets()
        line = job_line(job, self._options.line_limit_bytes)
        call: Call[T] = Call(line, self, make_result)
        if on_progress is not None:
            call.listen(guarded(on_progress))
        self.start()
        with self._lock:
            if self._end is not None and not self._delivery.is_closing:
                raise self._end.of_job(call.job_id)
            self._delivery.add(call)
        self._delivery.flush()
        return call

    def cancel(self, call: Call[Any]) -> bool:
        """End the call's job; False if it has ended."""
        error = local_error("cancelled", "the job was cancelled", call.job_id)
        with self._lock:
            is_open = self._delivery.end(call, error)
        self._delivery.flush()
        return is_open

    def cancel_all(self) -> None:
        """End every job in flight."""
        with self._lock:
            calls = list(self._delivery.calls.values())
        for call in calls:
            self.cancel(call)

    def ask(self, kind: str, timeout_s: float = ASK_TIMEOUT_S) -> Answer:
        """The answer to `health` or `trim`. Raises `DaemonGoneError`."""
        check_greenlets()
        self.start()
        with self._lock:
            if self._delivery.is_closing:
                raise _closed()
            if self._end is not None:
                raise self._end.of_job(None)
            answer = self._questions.ask(kind, timeout_s)
            self._write()
        self._delivery.flush()
        return answer

    def replay(self, job_ids: Sequence[str] | None = None) -> None:
        """Ask a daemon with a journal to send the ends of these jobs, or of all, again. They come
        to `on_message`."""
        message: Message = {"type": "replay"}
        if job_ids is not None:
            for job_id in job_ids:
                check_id(job_id)
            message["job_ids"] = list(job_ids)
        line = line_of(message)
        self.start()
        with self._lock:
            self._questions.replay(line)
            self._write()
        self._delivery.flush()

    def close(self) -> None:
        """Take no more jobs, let the daemon finish the jobs that it has, and end it. After the
        close timeout it gets SIGTERM, and then its process group gets SIGKILL."""
        self.check_may_wait()
        deadline = time.monotonic() + self._options.close_timeout_s
        try:
            with self._lock:
                self._delivery.is_closing = True
                if self._daemon is None:
                    self._finish(_closed())
                self._write()
            self._delivery.flush()
            self._delivery.written.wait(wait_s(deadline - time.monotonic()))
            with self._lock:
                self._delivery.has_ended_input = True
                if self._daemon is not None:
                    self._daemon.end_input(max(0.0, deadline - time.monotonic()))
            self._ended.wait()
        except BaseException:  # a Ctrl-C
            self.kill()
            raise

    def close_when_idle(self) -> None:
        """Wait for the open calls, and close."""
        wait_for_fork()
        with self._lock:
            calls = list(self._delivery.calls.values())
        wait(calls)
        self.close()

    def kill(self) -> None:
        """Kill the daemon and every process that it started. Open calls fail."""
        with self._lock:
            self._delivery.is_closing = self._delivery.has_ended_input = True
            if self._daemon is None:
                self._finish(_closed())
            else:
                self._daemon.kill()
        self._delivery.flush()
        self._ended.wait()

    @property
    def is_idle(self) -> bool:
        """True if no call is open."""
        return not self._delivery.calls

    def check_may_wait(self) -> None:
        """Raise `RuntimeError` in the reader's thread, because its wait would never end."""
        daemon = self._daemon
        if daemon is not None and daemon.channel.is_read_here:
            raise RuntimeError(
                "a callback of upscaled must not wait for a job, because it runs in the thread "
                "that reads the jobs' ends: submit it there, and wait for it in another thread"
            )
        check_greenlets()

    # --- under the lock ---------------------------------------------------------------------

    def _write(self) -> None:
        if self._daemon is not None:
            self._questions.write(self._daemon.channel)
        self._delivery.write()

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
            self._delivery.defer(lambda: self.on_gone(gone))
            return
        self._daemon.start()
        self._delivery.resume(self._daemon.channel)
        self._write()

    def _finish(self, error: DaemonGoneError) -> None:
        """End every open call and question."""
        if self._end is not None:
            return
        self._end = error
        self._delivery.settle_all(error)
        self._questions.fail_all(error)

        def report() -> None:
            if not self._ready.done():
                self._ready.set_exception(error)
            self._ended.set()

        self._delivery.defer(report)

    # --- the daemon's listener --------------------------------------------------------------

    def on_message(self, message: Message) -> None:
        """Handle a message of the daemon, in the reader's thread."""
        kind, job_id = message.get("type"), message.get("job_id")
        call = None
        with self._lock:
            if kind == "status" and message.get("message") == "ready":
                self._restarts.handle_ready()
                self._delivery.handle_ready()
            elif kind == "health":
                self._questions.answer(message)
            elif isinstance(job_id, str):
                call = self._delivery.calls.get(job_id)
                self._delivery.handle(kind, job_id, message)
        # Before the call ends, because its caller may use what `on_message` got.
        if self._options.on_message is not None:
            guarded(self._options.on_message)(message)
        if kind == "progress" and call is not None:
            call.advance(message)
        elif kind == "status" and message.get("message") == "ready" and not self._ready.done():
            self._ready.set_result(message)
        self._delivery.flush()

    def on_room(self) -> None:
        """Write more, in the writer's thread: there is room again."""
        with self._lock:
            self._write()
        self._delivery.flush()

    def on_input_lost(self) -> None:
        """The daemon takes no more jobs, but may finish those that it has. The next daemon gets the
        jobs that it did not accept."""
        with self._lock:
            if self._daemon is not None:
                self._daemon.end_input(self._options.close_timeout_s)

    def on_gone(self, error: DaemonGoneError) -> None:
        """The daemon has ended, or could not be started."""
        with self._lock:
            self._daemon = self._delivery.channel = None
            self._questions.fail_all(error)
            if self._delivery.is_closing:
                self._finish(error)
            else:
                self._delivery.defer(lambda: _LOG.warning("%s", error))
                delay_s = self._restarts.delay_after(error)
                self._delivery.keep(error, has_next=delay_s is not None)
                if delay_s is None:
                    self._finish(error)
                else:
                    self._timers.start(delay_s, self._spawn_again)
        self._delivery.flush()

    def _spawn_again(self) -> None:
        with self._lock:
            if not self._delivery.is_closing and self._daemon is None:
                self._spawn()
        self._delivery.flush()

    # --- forks ------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Take the lock, so that no change is half done in the child."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Release the lock."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start again: the daemon, its threads and the open calls belong to the parent."""
        daemon = self._daemon
        calls = [*self._delivery.calls.values(), *self._delivery.unreported]
        self._begin()
        if daemon is not None:
            daemon.forget()
        for call in calls:
            call.forget()


def _closed() -> DaemonGoneError:
    return DaemonGoneError("the client is closed")
