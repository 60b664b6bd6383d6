"""What the tests share: real daemons on real pipes, with bounded waits."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings

from conversation import TIMEOUT_S, Conversation

# A run in the background is started with SIGINT ignored, and its processes would inherit that. Some
# tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests run in parallel, with more threads than cores. Threads that wait for each other must sleep,
# not spin.
os.environ["OMP_WAIT_POLICY"] = "passive"

# The tests expect a processor's results. Only those of FLUX's published files want an accelerator.
if "UPSCALED_REAL_FLUX" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

# Any example may meet a moment in which the machine stands still.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")

Line = dict[str, Any]

_STDERR = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let no garbage collection visit what the collection imports and makes.

    All of it lives until the end. In the collection alone, the visits take a fifth of the time of
    each process.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the long tests first, so that the run does not end with one process that is still busy.

    A long test is one with a time limit above the usual one. `--dist worksteal` gives each process
    an equal part of the list. The long tests wait a lot, so they begin the parts of every second
    process, and the other processes compute meanwhile.
    """
    usual_s = float(config.getini("timeout"))
    long: list[pytest.Item] = []
    short: list[pytest.Item] = []
    for item in items:
        (long if time_limit_s(item) > usual_s else short).append(item)
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    beginnings = (processes + 1) // 2
    left = len(items)
    items.clear()
    for process in range(processes):
        size = left // (processes - process)
        left -= size
        head = long[process // 2 :: beginnings] if process % 2 == 0 else []
        rest = max(0, size - len(head))
        items += head + short[:rest]
        del short[:rest]
    items += short


def time_limit_s(item: pytest.Item) -> float:
    """The test's time limit, at which pytest-timeout fails it."""
    marker = item.get_closest_marker("timeout")
    return float(item.config.getini("timeout") if marker is None else marker.args[0])


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(2)  # each test's own is captured


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """End the process, with the stacks of all threads, if the test's time limit does not end it.

    The limit raises an exception in the test, once. What waits without a bound after that, as a
    fixture's end may, would hold up the whole run.
    """
    limit_s = time_limit_s(item) + TIMEOUT_S
    faulthandler.dump_traceback_later(limit_s, exit=True, file=item.config.stash[_STDERR])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """The same once more: if a test fails, pytest cancels the first one."""
    pytest_runtest_setup(item)


def pytest_runtest_logfinish() -> None:
    """The test has ended."""
    faulthandler.cancel_dump_traceback_later()


class Daemon(Conversation):
    """A daemon process and everything it has said so far."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | env,
            cwd=cwd,
            bufsize=0,
        )
        assert isinstance(self.process.stdin, FileIO)
        assert isinstance(self.process.stdout, FileIO)
        super().__init__(self.process.stdin, self.process.stdout)
        self._threads.append(threading.Thread(target=self._read_stderr, daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_idle(self) -> None:
        """Wait until it uses almost no CPU time. On a busy machine it may only seem idle."""
        process = psutil.Process(self.pid)
        end = time.monotonic() + TIMEOUT_S
        before = -1.0
        while (now := sum(process.cpu_times()[:2])) - before > 0.1:
            if time.monotonic() > end:
                pytest.fail("the daemon is never idle")
            before = now
            time.sleep(0.5)

    def wait(self) -> int:
        """The exit status, and everything it said read."""
        code = self.process.wait(TIMEOUT_S)
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        return code

    def finish(self) -> int:
        """End its input and wait."""
        self.close_stdin()
        return self.wait()

    def kill(self) -> None:
        self.resume_reading()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(TIMEOUT_S)
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        while chunk := self.process.stderr.read(65536):
            with self._changed:
                self.stderr += chunk
                self._changed.notify_all()

    def wait_stderr(self, text: bytes) -> None:
        """Until stderr has the text."""
        end = time.monotonic() + TIMEOUT_S
        with self._changed:
            while text not in self.stderr:
                left = end - time.monotonic()
                if left <= 0 or (self._ended and not self._threads[1].is_alive()):
                    pytest.fail(f"{text!r} is not on stderr: {self.stderr[-3000:]!r}")
                self._changed.wait(min(left, 0.2))


StartDaemon = Callable[..., Daemon]


def _daemons(cwd: Path) -> Iterator[StartDaemon]:
    daemons: list[Daemon] = []

    def start(module: str, *options: str, env: dict[str, str] | None = None) -> Daemon:
        daemon = Daemon(["-m", module, *options], env or {}, cwd)
        daemons.append(daemon)
        return daemon

    yield start
    for daemon in daemons:
        daemon.kill()


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Starts `python -m MODULE OPTIONS...`; whatever still runs is killed after the test."""
    yield from _daemons(tmp_path)


@pytest.fixture(scope="module")
def start_shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartDaemon]:
    """The same for daemons that serve all tests of a module."""
    yield from _daemons(tmp_path_factory.mktemp("daemon"))


@pytest.fixture
def start_supervisor(start_daemon: StartDaemon) -> StartDaemon:
    """Starts a supervisor, with the fake engine unless `--methods` is given."""

    def start(*options: str, **kwargs: Any) -> Daemon:
        methods = () if "--methods" in options else ("--methods", "fake")
        return start_daemon("upscaled_supervisor", *methods, *options, **kwargs)

    return start


@pytest.fixture
def start_worker(start_daemon: StartDaemon) -> StartDaemon:
    """Starts a bare worker, with the fake engine unless `--methods` is given."""

    def start(*options: str, **kwargs: Any) -> Daemon:
        methods = () if "--methods" in options else ("--methods", "fake")
        return start_daemon("upscaled_worker", *methods, *options, **kwargs)

    return start
