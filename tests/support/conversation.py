"""A host's side of a conversation with a daemon: lines in, lines out, bounded waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from typing import Any

import pytest

from upscaled_protocol.lines import decode_line, encode_line

# Far beyond what anything here takes, even on a busy machine; a wait that long is a failure.
TIMEOUT_S = 120.0

Line = dict[str, Any]


class Conversation:
    """Writes to a daemon's stdin and keeps every line of its stdout."""

    def __init__(self, stdin: FileIO, stdout: FileIO) -> None:
        self.stdin = stdin
        self._stdout = stdout
        self._changed = threading.Condition()
        self.lines: list[Line] = []
        self.raw: list[bytes] = []
        self.stderr = b""
        self._ended = False
        self._stall = threading.Event()
        self._stall.set()
        self._threads = [threading.Thread(target=self._read_stdout, daemon=True)]

    def send(self, *messages: Line | bytes) -> None:
        """Write lines: messages, or bytes as they are. If the daemon has exited, they are lost; its
        lines and its exit status say why."""
        data = b"".join(one if isinstance(one, bytes) else encode_line(one) for one in messages)
        view = memoryview(data)
        with suppress(BrokenPipeError):
            while view:
                view = view[self.stdin.write(view) :]

    def job(self, job_id: str, method: str = "fake", **config: Any) -> None:
        """Send one job."""
        self.send({"job_id": job_id, "method": method, "config": config})

    def stop_reading(self) -> None:
        """Be a host that does not read its results; `resume_reading` continues."""
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

    def terminals(self) -> list[Line]:
        """Every terminal event so far."""
        return [line for line in self.lines if line["type"] in ("result", "error")]

    def close_stdin(self) -> None:
        self.stdin.close()

    def _read_stdout(self) -> None:
        begun: list[bytes] = []
        while True:
            self._stall.wait()
            chunk = self._stdout.read(65536)
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
