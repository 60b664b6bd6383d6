"""Child processes on raw pipes, with as little code of the project as possible."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson

# The least that any dispatch can take: read, and write back.
ECHO = "import os\nwhile data := os.read(0, 65536):\n    os.write(1, data)\n"

# A worker of three lines that parses each job and answers it: no queue, no cancel, no supervisor.
BY_HAND = """
import json, sys
for line in sys.stdin:
    job = json.loads(line)
    end = {"type": "result", "job_id": job["job_id"], "status": "completed", "output_path": "x"}
    print(json.dumps(end), flush=True)
"""

# The least that supervision can take: a process in between that only copies.
RELAY = f"""
import os, select, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {ECHO!r}], stdin=-1, stdout=-1, bufsize=0)
ways = {{0: child.stdin.fileno(), child.stdout.fileno(): 1}}
poll = select.poll()
for source in ways:
    poll.register(source, select.POLLIN)
while True:
    for source, _ in poll.poll():
        data = os.read(source, 65536)
        if not data:
            sys.exit()
        os.write(ways[source], data)
"""

RUN = ["-m", "upscaled_supervisor"]
WORKER = ["-m", "upscaled_worker"]


class Pipe:
    """A child's stdin and stdout, as lines."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.write_fd = process.stdin.fileno()
        self.read_fd = process.stdout.fileno()
        self._rest = b""

    def write(self, data: bytes) -> None:
        """All of it."""
        while data:
            data = data[os.write(self.write_fd, data) :]

    def read_line(self) -> bytes:
        """The next line; `EOFError` at the end."""
        while b"\n" not in self._rest:
            chunk = os.read(self.read_fd, 65536)
            if not chunk:
                raise EOFError
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def wait_for(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The next message that meets the condition."""
        while True:
            message: dict[str, Any] = orjson.loads(self.read_line())
            if condition(message):
                return message

    def wait_ready(self) -> None:
        """Until the daemon can start a job."""
        self.wait_for(lambda message: message.get("message") == "ready")

    def wait_result(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's result. Raises `RuntimeError` if it failed."""
        end = self.wait_for(
            lambda one: one["type"] in ("result", "error") and one.get("job_id") == job_id
        )
        if end["type"] == "error":
            raise RuntimeError(end["error"])
        return end


@contextmanager
def child(argv: list[str]) -> Iterator[Pipe]:
    """A Python child process, its input ended and itself waited for afterwards."""
    process = subprocess.Popen(
        [sys.executable, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    with process:
        yield Pipe(process)
        assert process.stdin is not None
        process.stdin.close()
        while os.read(process.stdout.fileno(), 65536) if process.stdout else b"":
            pass


def seconds(action: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
