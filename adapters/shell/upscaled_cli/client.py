"""A daemon of one's own, as a child process, for a Python host that blocks.

with Client() as client:
    client.submit("esrgan", {"image_path": "photo.jpg"})
    for message in client.events():
        print(message)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self

from upscaled_cli.channel import Channel, Message, line_of
from upscaled_protocol.envelope import MAX_JOB_ID_LENGTH

# Supervised: a crash costs the running job an attempt, not the whole run.
DAEMON = (sys.executable, "-m", "upscaled_cli", "run")

# From the end of our input to the daemon's own end, when it has no jobs left.
CLOSE_TIMEOUT_S = 30.0

_STDERR_TAIL_BYTES = 4000


class DaemonGoneError(Exception):
    """Raised when the daemon ends while jobs are in flight. The text has its last words."""


class Client:
    """Starts the daemon at once; leaving the context ends it, with every process it started."""

    def __init__(
        self,
        command: Sequence[str] = DAEMON,
        *,
        show_log: bool = False,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
    ) -> None:
        self._close_timeout_s = close_timeout_s
        self._pending: set[str] = set()
        self._count = 0
        # Kept aside: it is of interest only where the daemon fails. A file never fills up, as a
        # pipe that nobody reads would.
        self._log: BinaryIO | None = None if show_log else tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # A terminal's Ctrl-C is for us alone: we cancel, and the daemon cleans up.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._channel = Channel(self._process.stdout, self._process.stdin)

    def submit(
        self, method: str, config: dict[str, Any], *, job_id: str | None = None, **fields: Any
    ) -> str:
        """Send one job; the id that its messages will carry.

        `fields` are those of the job beside its config, as in `priority` and `timeout_s`. Raises
        `ValueError` where the protocol has no line for such a job. A daemon that is gone says so
        to `receive`, after all else that it had to say.
        """
        if job_id is not None and not 1 <= len(job_id) <= MAX_JOB_ID_LENGTH:
            raise ValueError(f"a job_id has 1 to {MAX_JOB_ID_LENGTH} characters")
        if job_id is None:
            self._count += 1
            job_id = str(self._count)
        line = line_of({"job_id": job_id, "method": method, "config": config, **fields})
        # Before it is sent: another thread may be receiving.
        self._pending.add(job_id)
        self._channel.send(line)
        return job_id

    def cancel(self, job_id: str | None = None) -> None:
        """End a job, or every job in flight; each is still answered."""
        for one in sorted(self._pending) if job_id is None else [job_id]:
            self.send({"type": "cancel", "job_id": one})

    def send(self, message: Message) -> None:
        """Send any message that is no job. Raises `ValueError`."""
        self._channel.send(line_of(message))

    def receive(self) -> Message:
        """The next message, whatever it is about. Raises `DaemonGoneError`.

        A job ends once: what else may come of an end is passed over.
        """
        while (message := self._channel.receive()) is not None:
            if message.get("type") not in ("result", "error") or message.get("job_id") is None:
                return message
            if message["job_id"] in self._pending:
                self._pending.discard(message["job_id"])
                return message
        raise self._gone()

    def finish(self) -> None:
        """Send nothing more: the daemon finishes what it has, and ends."""
        self._channel.close()

    def events(self) -> Iterator[Message]:
        """Every message, as it comes, until each job submitted has its result or its error.

        Raises `DaemonGoneError`.
        """
        while self._pending:
            yield self.receive()

    @property
    def pending(self) -> frozenset[str]:
        """Ids of the jobs in flight."""
        return frozenset(self._pending)

    @property
    def returncode(self) -> int | None:
        """The daemon's exit status; None while it runs."""
        return self._process.returncode

    def kill(self) -> None:
        """End the daemon now. Its workers follow it: their pipes close."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _gone(self) -> DaemonGoneError:
        self.kill()
        words = f"the daemon ended with status {self._process.returncode}"
        if self._log is not None:
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(0, size - _STDERR_TAIL_BYTES))
            words += f": {self._log.read().decode(errors='replace').strip()}"
        return DaemonGoneError(words)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()
        try:
            # With jobs in flight somebody gave up on them.
            self._process.wait(0 if self._pending else self._close_timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._log is not None:
            self._log.close()
