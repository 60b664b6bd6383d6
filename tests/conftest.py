"""What the tests share: real daemons on real pipes, with bounded waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings

from upscaled_protocol.lines import decode_line, encode_line

# Far beyond what anything here takes, even on a busy machine; a wait that long is a failure.
TIMEOUT_S = 120.0

# A run that was put into the background is started with Ctrl-C ignored, and so would be every
# process below it; the tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests run side by side, on more threads than there are cores: those that wait for each other give
# their core away, where they would spin.
os.environ["OMP_WAIT_POLICY"] = "passive"

# Any example may meet a moment in which the machine stands still.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")

Line = dict[str, Any]


class Daemon:
    """A daemon process and everything it has said so far."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: Path) -> None:
        self._changed = threading.Condition()
        self.lines: list[Line] = []
        self.raw: list[bytes] = []
        self.stderr = b""
        self._ended = False
        self._stall = threading.Event()
        self._stall.set()
        self.process = subprocess.Popen(
            [sys.executable, "-u", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | env,
            cwd=cwd,
            bufsize=0,
        )
        self._threads = [
            threading.Thread(target=self._read_stdout, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, *messages: Line | bytes) -> None:
        """Write lines: messages, or bytes as they are."""
        assert self.process.stdin is not None
        data = b"".join(one if isinstance(one, bytes) else encode_line(one) for one in messages)
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def job(self, job_id: str, method: str = "fake", **config: Any) -> None:
        """Send one job."""
        self.send({"job_id": job_id, "method": method, "config": config})

    def stop_reading(self) -> None:
        """Be a host that does not read its results; `resume_reading` goes on."""
        self._stall.clear()

    def resume_reading(self) -> None:
        self._stall.set()

    def wait_for(self, condition: Callable[[Line], object], what: str = "a line") -> Line:
        """The first line, past or to come, that meets the condition."""
        end = time.monotonic() + TIMEOUT_S
        seen = 0
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if condition(line):
                        return line
                seen = len(self.lines)
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    text = self.stderr.decode(errors="replace")[-3000:]
                    pytest.fail(f"{what} did not come; last: {self.lines[-5:]}; stderr: {text}")
                self._changed.wait(left)

    def wait_status(self, message: str) -> Line:
        return self.wait_for(lambda line: line.get("message") == message, f"status {message}")

    def wait_accepted(self, job_id: str) -> Line:
        return self.wait_for(
            lambda line: (line["type"], line.get("job_id")) == ("accepted", job_id),
            f"the acceptance of job {job_id}",
        )

    def wait_terminal(self, job_id: str) -> Line:
        """The result or error of a job."""
        return self.wait_for(
            lambda line: line["type"] in ("result", "error") and line.get("job_id") == job_id,
            f"the end of job {job_id}",
        )

    def wait_progress(self, job_id: str) -> Line:
        return self.wait_for(
            lambda line: (line["type"], line.get("job_id")) == ("progress", job_id),
            f"progress of job {job_id}",
        )

    def ask_health(self) -> Line:
        """A fresh report."""
        known = len([line for line in self.lines if line["type"] == "health"])
        self.send({"type": "health"})
        seen: list[Line] = []

        def is_new(line: Line) -> bool:
            if line["type"] == "health":
                seen.append(line)
            return len(seen) > known

        return self.wait_for(is_new, "health")

    def wait_health(self, condition: Callable[[Line], object]) -> Line:
        """Ask until the report meets the condition."""
        end = time.monotonic() + TIMEOUT_S
        while True:
            report = self.ask_health()
            if condition(report):
                return report
            if time.monotonic() > end:
                pytest.fail(f"health never met the condition: {report}")
            time.sleep(0.01)

    def wait_until_idle(self) -> None:
        """Until its CPU time stands nearly still; so it does too while nobody lets it run."""
        process = psutil.Process(self.pid)
        end = time.monotonic() + TIMEOUT_S
        before = -1.0
        while (now := sum(process.cpu_times()[:2])) - before > 0.1:
            if time.monotonic() > end:
                pytest.fail("the daemon never comes to rest")
            before = now
            time.sleep(0.5)

    def terminals(self) -> list[Line]:
        """Every terminal event so far."""
        return [line for line in self.lines if line["type"] in ("result", "error")]

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

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

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        begun: list[bytes] = []
        while True:
            self._stall.wait()
            chunk = self.process.stdout.read(65536)
            if not chunk:
                break
            *whole, last = chunk.split(b"\n")
            if whole:
                whole[0] = b"".join([*begun, whole[0]])
                begun = []
            begun.append(last)  # not joined yet: a line may be long
            with self._changed:
                self.raw += whole
                self.lines += [decode_line(line) for line in whole]
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            if rest := b"".join(begun):
                self.raw.append(rest)
            self._changed.notify_all()

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
    """Starts a supervisor with the fake engine, unless told otherwise."""

    def start(*options: str, **kwargs: Any) -> Daemon:
        methods = () if "--methods" in options else ("--methods", "fake")
        return start_daemon("upscaled_supervisor", *methods, *options, **kwargs)

    return start


@pytest.fixture
def start_worker(start_daemon: StartDaemon) -> StartDaemon:
    """Starts a bare worker with the fake engine, unless told otherwise."""

    def start(*options: str, **kwargs: Any) -> Daemon:
        methods = () if "--methods" in options else ("--methods", "fake")
        return start_daemon("upscaled_worker", *methods, *options, **kwargs)

    return start
