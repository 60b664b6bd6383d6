"""One call: its job's line, its deadline, its progress, and its one end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar, cast

from upscaled.callbacks import guarded
from upscaled.errors import ForkedError, JobCancelledError, UpscaledError, error_of, local_error
from upscaled.jobline import JobLine
from upscaled.messages import Message, read
from upscaled.protocol import Progress
from upscaled.result import Result
from upscaled.timers import Timer

T = TypeVar("T")

# After these refusals a job waits in the client, unless it was cancelled.
_WOULD_WAIT = frozenset({"queue_full", "shutting_down"})


class CallOwner(Protocol):
    """The client, to its calls."""

    def cancel(self, call: Call[Any]) -> bool:
        """End the call's job."""

    def check_may_wait(self) -> None:
        """Raise `RuntimeError` in a thread that must not wait for a call."""


class Call(Future[Result[T]], Generic[T]):
    """A submitted job: a future of its result, also for `concurrent.futures.wait` and
    `as_completed`.

    Iterate over it for its progress; if the job failed, its error is raised at the end.
    """

    def __init__(
        self,
        line: JobLine,
        owner: CallOwner,
        make_result: Callable[[Message], Result[T]],
    ) -> None:
        super().__init__()
        # A future that runs cannot be cancelled without the daemon.
        self.set_running_or_notify_cancel()
        self.job_id = line.job_id
        self._owner = owner
        self._make_result = make_result
        self._made: Result[T] | None = None
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Progress], None]] = []
        # Of those that iterate over it. None: the end.
        self._iterations: list[queue.SimpleQueue[Progress | None]] = []
        self._latest: Progress | None = None
        # The client's, under its lock. line: to write, until a daemon has accepted the job. losses:
        # daemons that ended before that. ending: the call's end if the daemon does not end it.
        self.line = line.line
        self.timeout_s = line.timeout_s
        self.losses = 0
        self.is_accepted = False
        self.is_resuming = False  # the next daemon has the job, by the journal
        self.ending: UpscaledError | None = None
        # Of the deadline; once the call is ending, of the grace.
        self.timer: Timer | None = None

    def cancel(self) -> bool:
        """End the job; False if it has ended. The call ends once the daemon has ended the job, as a
        rule with `JobCancelledError`: after that nothing is written to the output."""
        return self._owner.cancel(self)

    def result(self, timeout: float | None = None) -> Result[T]:
        """Wait for the job's end. Raises `UpscaledError`, and `TimeoutError` if the end does not
        come within `timeout` seconds, which leaves the job as it is."""
        if not self.done():
            self._owner.check_may_wait()
        message = cast(Message, super().result(timeout))
        # The picture is read once, by the first thread that asks for the result.
        with self._lock:
            if self._made is None:
                self._made = self._make_result(message)
        return self._made

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the job's end, as `result` does. The job's error; None if it did not fail."""
        if not self.done():
            self._owner.check_may_wait()
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Future[Result[T]]], object]) -> None:
        """Call the function with this call, once it has ended."""
        super().add_done_callback(guarded(fn))

    def listen(self, listener: Callable[[Progress], None]) -> None:
        """Call the listener with the latest progress, and with each later one."""
        with self._lock:
            self._listeners.append(listener)
            if self._latest is not None:
                listener(self._latest)

    def __iter__(self) -> Iterator[Progress]:
        self._owner.check_may_wait()
        news: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        self._iterations.append(news)
        self.listen(news.put)
        self.add_done_callback(lambda _: news.put(None))
        while (progress := news.get()) is not None:
            yield progress
        self.result()

    # --- for the client -----------------------------------------------------------------------

    def advance(self, message: Message) -> None:
        """Take the daemon's `progress`."""
        if self.done():
            return
        progress = read(Progress, message)
        with self._lock:
            self._latest = progress
            listeners = self._listeners[:]
        for listener in listeners:
            listener(progress)

    def settle(self, outcome: Message | UpscaledError) -> None:
        """Give the call its one end."""
        if isinstance(outcome, UpscaledError):
            self.set_exception(outcome)
        else:
            self.set_result(cast(Any, outcome))

    def error_from(self, message: Message) -> UpscaledError:
        """The caller's exception for the daemon's error."""
        error = error_of(message)
        ending = self.ending
        # The client sent a cancel because of the deadline, so the daemon says `cancelled`.
        was_late = ending is not None and not isinstance(ending, JobCancelledError)
        if error.code == "cancelled" and was_late:
            return ending or error
        # The daemon refused the job, and the client would have sent it again.
        if error.code in _WOULD_WAIT and not self.is_accepted:
            return ending or error
        return error

    def late_error(self) -> UpscaledError:
        """The end of a call whose `timeout_s` is over."""
        text = f"timeout_s is over: {self.timeout_s:g} s"
        return local_error("deadline_exceeded", text, self.job_id)

    def forget(self) -> None:
        """End the call in a forked child, where nothing else will. Its locks may be held."""
        Future.__init__(self)
        self._lock = threading.Lock()
        text = "the job belongs to the parent of this forked process, which gets its end"
        self.set_exception(ForkedError(text, job_id=self.job_id))
        for news in self._iterations:
            news.put(None)
