"""A worker that plays a script: `python scripted.py SCRIPT`. Standard library only.

A client under test starts it as its daemon. Each line of SCRIPT is one row of a transcript;
README.md lists them. It compares what the client writes with the `host` rows. If they differ, or if
the client writes something unexpected, it writes that to the file SCRIPT.fault and exits with
status 70.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

Row = dict[str, Any]

FAULT_STATUS = 70  # EX_SOFTWARE; no daemon uses it

JOB_DEFAULTS: Row = {"config": {}, "priority": 0, "max_attempts": 2}
JOB_FIELDS = {"job_id", "method", "timeout_s", *JOB_DEFAULTS}


class Script:
    """The rows, and what has been played."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = self._next_rows()
        self._stdin = sys.stdin.buffer
        self._deaf = False
        # The client's own request_ids: by those of the script, and those of open questions.
        self._request_ids: dict[str, str | None] = {}
        self._asked: list[str | None] = []

    def play(self) -> None:
        """Play each row in turn, then wait for the end of the input."""
        awaited: list[Row] = []
        for row in self._rows:
            # Consecutive `host` rows may come in any order.
            if row["dir"] != "host" and awaited:
                self._await(awaited)
                awaited = []
            if row["dir"] == "host":
                awaited.append(canonical(json.loads(text(row))))
            elif row["dir"] == "worker":
                self._write(row)
            elif row["dir"] == "close":
                self._await_end()
            else:
                self._act(row)
        if awaited:
            self._await(awaited)
        self._await_end()

    def _next_rows(self) -> list[Row]:
        """The rows up to the next `start`. The rows after it are for the next process."""
        rows = [json.loads(line) for line in self._path.read_bytes().splitlines()]
        begins = [0, *(number for number, row in enumerate(rows, 1) if row["dir"] == "start")]
        starts = self._beside("starts")
        played = int(starts.read_text()) if starts.exists() else 0
        starts.write_text(str(played + 1))
        if played >= len(begins):
            self._fault(f"the daemon was started {played + 1} times")
        rest = rows[begins[played] :]
        return rest[: next((at for at, row in enumerate(rest) if row["dir"] == "start"), None)]

    def _await(self, awaited: list[Row]) -> None:
        while awaited:
            line = self._stdin.readline()
            if not line:
                self._fault(f"the input ended before {awaited}")
            message = canonical(json.loads(line))
            found = next((row for row in awaited if _without_id(row) == _without_id(message)), None)
            if found is None:
                self._fault(f"{line!r} came, but {awaited} was expected")
            awaited.remove(found)
            if message.get("type") in ("health", "trim"):
                self._asked.append(message.get("request_id"))
                if "request_id" in found:
                    self._request_ids[found["request_id"]] = message.get("request_id")

    def _await_end(self) -> None:
        for line in self._stdin:
            if canonical(json.loads(line)) != {"type": "shutdown"}:
                self._fault(f"{line!r} came, but nothing was expected")
        while self._deaf:
            signal.pause()

    def _write(self, row: Row) -> None:
        line = base64.b64decode(row["base64"]) if "base64" in row else text(row).encode()
        if line.startswith(b'{"type":"health"'):
            line = self._answer(json.loads(line))
        line += row.get("end", "\n").encode()
        pieces = [line[at : at + 1] for at in range(len(line))] if row.get("slow") else [line]
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(1, view) :]

    def _answer(self, message: Row) -> bytes:
        """The answer with the client's own request_id: the one of the question, or the oldest."""
        if "request_id" in message:
            # An id that no question has is not changed.
            own = self._request_ids.get(message["request_id"], message["request_id"])
        else:
            own = self._asked[0] if self._asked else None
        if own in self._asked:
            self._asked.remove(own)
        answer = _without_id(message)
        if own is not None:
            answer["request_id"] = own
        return json.dumps(answer).encode()

    def _act(self, row: Row) -> None:
        match row["dir"]:
            case "stderr":
                os.write(2, f"{text(row)}\n".encode())
            case "exit":
                sys.exit(row["status"])
            case "die":
                os.kill(os.getpid(), row["signal"])
            case "hush":
                os.close(1)
            case "pause":
                time.sleep(row["s"])
            case "deaf":
                self._be_deaf()
            case "freeze":
                self._beside("pids").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
            case unknown:
                self._fault(f"there is no row {unknown}")

    def _be_deaf(self) -> None:
        """Ignore SIGTERM, and start a child that keeps the pipes open."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["/bin/sleep", "600"])
        self._beside("pids").write_text(f"{os.getpid()} {child.pid}")
        self._deaf = True

    def _fault(self, sentence: str) -> NoReturn:
        self._beside("fault").write_text(sentence)
        sys.exit(FAULT_STATUS)

    def _beside(self, suffix: str) -> Path:
        return self._path.with_suffix(f".{suffix}")


def text(row: Row) -> str:
    """The row's line, with its `@` repeated `pad` times."""
    line: str = row["line"]
    return line.replace("@", "x" * row["pad"]) if "pad" in row else line


def _without_id(message: Row) -> Row:
    # The client chooses its request_ids.
    return {name: value for name, value in message.items() if name != "request_id"}


def canonical(message: Row) -> Row:
    """A host's message with its defaults, without fields that do not matter."""
    if message.get("type", "job") != "job":
        return message
    said = {name: value for name, value in message.items() if name in JOB_FIELDS}
    return JOB_DEFAULTS | said


if __name__ == "__main__":
    Script(Path(sys.argv[1])).play()
