"""A daemon for a command with one thread: all of its messages, in order."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from upscaled.call import Call
from upscaled.client import Client
from upscaled.command import default_command
from upscaled.errors import DaemonGoneError, UpscaledError
from upscaled.messages import Message
from upscaled.options import ClientOptions
from upscaled.result import Result

DAEMON = default_command()

# One retry: a daemon that fails before it is ready may have met an earlier one that was exiting.
_STARTS = 2
_IDLE_S = 1.0


class Session:
    """Starts the daemon at once. The end of the context ends the daemon and all of its
    processes."""

    def __init__(self, command: Sequence[str] = DAEMON, *, show_log: bool = False) -> None:
        self._said: queue.SimpleQueue[Message | Call[Any] | DaemonGoneError] = queue.SimpleQueue()
        self._pending: set[str] = set()
        self._count = 0
        self._was_ready = False
        self._client = Client(
            ClientOptions(
                command=command,
                show_log=show_log,
                attempts=_STARTS,
                on_message=self._take,
                on_settled=self._said.put,
            )
        )
        self._client.start()

    def submit(self, method: str, config: dict[str, Any]) -> str:
        """Send one job; the id of its messages. Raises `UpscaledError` if it cannot be sent. If the
        daemon is gone, `receive` raises that, after the daemon's last messages."""
        self._count += 1
        job_id = str(self._count)
        # Before it is sent, because a Ctrl-C may come as soon as the daemon has it.
        self._pending.add(job_id)
        job = {"job_id": job_id, "method": method, "config": config}
        try:
            self._client.submit(job, lambda message: Result.of(message, None))
        except DaemonGoneError as error:
            self._said.put(error)
        except UpscaledError:
            self._pending.discard(job_id)
            raise
        return job_id

    def health(self) -> Message:
        """The daemon's report. Raises `DaemonGoneError` and `NoAnswerError`."""
        return self._client.ask("health").result()

    def cancel(self) -> None:
        """Cancel every open job; each still gets its end."""
        self._client.cancel_all()

    def receive(self, idle: Callable[[], None] | None = None) -> Message:
        """The next message. Raises `DaemonGoneError` for a job whose daemon is gone.

        idle: called each second until one is there.
        """
        while True:
            try:
                said = self._said.get(timeout=_IDLE_S)
                break
            except queue.Empty:
                if idle is not None:
                    idle()
        if isinstance(said, DaemonGoneError):
            raise said
        if not isinstance(said, Call):
            return said
        self._pending.discard(said.job_id)
        error = said.exception()
        if error is None:
            return said.result().message
        if isinstance(error, UpscaledError) and error.details:
            return {"type": "error", **error.details}
        raise error

    def events(self, idle: Callable[[], None] | None = None) -> Iterator[Message]:
        """Every message, until each job has its result or its error. idle: as in `receive`."""
        while self._pending:
            yield self.receive(idle)

    @property
    def pending(self) -> frozenset[str]:
        """The ids of the jobs whose end was not received yet."""
        return frozenset(self._pending)

    def _take(self, message: Message) -> None:
        """Take a message, in the reader's thread. The ends of jobs come from their calls."""
        status = message.get("message")
        self._was_ready = self._was_ready or status == "ready"
        if status == "degraded" and "cause" in message and not self._was_ready:
            # The daemon goes on, because a service may wait until the machine has room again.
            self._said.put(DaemonGoneError(f"no worker gets ready: {message.get('detail')}"))
            return
        is_end = message.get("type") in ("result", "error") and message.get("job_id") is not None
        if not is_end:
            self._said.put(message)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Open jobs here mean that the command was interrupted.
        if self._pending:
            self._client.kill()
        else:
            self._client.close()
