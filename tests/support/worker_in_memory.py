"""A worker in this process: its real loop and threads, on pipes, with the test's clock."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

from conversation import TIMEOUT_S, Conversation
from upscaled_models.engine import Engine, Settings
from upscaled_models.fake import FakeEngine
from upscaled_protocol.stdio import Wire
from upscaled_worker.loop import Worker


class _ExitedError(BaseException):
    """Ends the thread that would have ended the process."""


class Clock:
    """Stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class WorkerInMemory(Conversation):
    """A worker whose loop runs in a thread, and its host."""

    def __init__(
        self, engines: dict[str, Engine[Any]], *, max_queue: int = 100, supervised: bool = False
    ) -> None:
        worker_read, host_write = os.pipe()
        host_read, worker_write = os.pipe()
        super().__init__(FileIO(host_write, "w"), FileIO(host_read))
        self._worker_fds = [worker_read, worker_write]
        self.clock = Clock()
        self.worker = Worker(
            Wire(worker_read, worker_write),
            engines,
            max_queue=max_queue,
            line_limit_bytes=2**20,
            supervised=supervised,
            clock=self.clock,
            exit_process=self._exit,
        )
        self._exit_status: int | None = None
        self._loop = threading.Thread(target=self._run, daemon=True)
        self._threads.append(self._loop)
        for thread in self._threads:
            thread.start()

    def advance(self, seconds: float) -> None:
        """Move the clock, and have the worker look at it."""
        self.clock.now += seconds
        self.worker.wake()

    def close_stdout(self) -> None:
        """Be a host that is gone. The worker must be ready and have nothing to say."""
        self.stop_reading()
        self.ask_health()  # the last that is read: a thread that reads would keep the pipe open
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, self._stdout.fileno())
        os.close(null)

    def signal(self, signum: int) -> None:
        """Do what a signal to the process does."""
        with suppress(_ExitedError):
            self.worker.handle_signal(signum)

    def wait(self) -> int:
        """The exit status, and everything it said read."""
        self._loop.join(TIMEOUT_S)
        self.resume_reading()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        assert self._exit_status is not None
        return self._exit_status

    def finish(self) -> int:
        """End its input and wait."""
        self.close_stdin()
        return self.wait()

    def close(self) -> None:
        """End what still runs."""
        self.resume_reading()
        accepted = {line["job_id"] for line in self.lines if line["type"] == "accepted"}
        if self._loop.is_alive() and not self.stdin.closed:
            ended = {line["job_id"] for line in self.terminals()}
            self.send(*({"type": "cancel", "job_id": one} for one in accepted - ended))
            self.close_stdin()
        self.wait()
        self.stdin.close()
        self._stdout.close()

    def _exit(self, status: int) -> NoReturn:
        if self._exit_status is None:
            self._exit_status = status
        raise _ExitedError

    def _run(self) -> None:
        try:
            status = self.worker.run()
            if self._exit_status is None:
                self._exit_status = status
        except _ExitedError:
            pass
        finally:
            for fd in self._worker_fds:
                os.close(fd)


class StartWorker:
    """Starts workers with the fake engine, or with other engines by method."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(model_dir=folder)
        self.workers: list[WorkerInMemory] = []

    def __call__(
        self, engines: dict[str, Engine[Any]] | None = None, **options: Any
    ) -> WorkerInMemory:
        engines = engines or {"fake": FakeEngine(self.settings)}
        worker = WorkerInMemory(engines, **options)
        self.workers.append(worker)
        return worker


@contextmanager
def workers_in_memory(folder: Path) -> Iterator[StartWorker]:
    """All workers have ended afterwards."""
    start = StartWorker(folder)
    try:
        yield start
    finally:
        for worker in start.workers:
            worker.close()
