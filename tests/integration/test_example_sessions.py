"""The golden transcripts, played against real daemons."""

from __future__ import annotations

import base64
import os
import select
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
import pytest

from upscaled_protocol.codec import decode_worker_message
from upscaled_protocol.lines import LineSplitter, decode_line

Row = dict[str, Any]
# What one message is about: events of different jobs may come in any order.
Topic = tuple[str | None, ...]
STATUS: Topic = ("status",)

EXAMPLES = sorted((Path(__file__).parents[2] / "protocol" / "examples").glob("*.jsonl"))
PLAYABLE = [path for path in EXAMPLES if b'"play":' in path.read_bytes()]
MODULES = {"worker": "upscaled_worker", "run": "upscaled_supervisor"}
TIMEOUT_S = 60.0
# The sessions in which a supervisor differs: it accepts a job before its config is checked, and its
# `health` has its workers.
WORKERS_OWN = {"unknown_fields", "health"}
# The fields that differ from run to run.
VOLATILE = {"pid", "version", "uptime_s", "processing_time", "timings", "position"}


def topic_of(message: Row) -> Topic:
    if "job_id" in message:
        return ("job", message["job_id"], message.get("refused_job_id"))
    return (message["type"],)


def steady(message: Row) -> Row:
    """A message without what differs from run to run."""
    kept = {name: value for name, value in message.items() if name not in VOLATILE}
    if kept.get("attempt") == 1:
        del kept["attempt"]  # a first attempt may be left out
    # The text is that of the JSON library, or of the side that noticed first.
    if message.get("code") in ("invalid_json", "deadline_exceeded"):
        del kept["error"]
    return kept


class Session:
    """A daemon and what it was expected to say, and said, so far."""

    def __init__(self, module: str, options: list[str], directory: Path) -> None:
        self._log = (directory / "stderr").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", module, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=directory,
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self._lines = LineSplitter()
        self.expected: dict[Topic, list[Row]] = defaultdict(list)
        self.said: dict[Topic, list[Row]] = defaultdict(list)

    def expect(self, message: Row) -> None:
        if message["type"] != "progress":
            self.expected[topic_of(message)].append(steady(message))

    def wait_until_met(self) -> None:
        """Read until every expected message is there. There must be no other one, except a status
        such as `ready`, which may come at any time; that one must be expected next."""
        end = time.monotonic() + TIMEOUT_S
        while any(
            len(self.said[topic]) < len(messages) for topic, messages in self.expected.items()
        ):
            ready, _, _ = select.select([self.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready or not self.read():
                break
        statuses = self.said[STATUS][: len(self.expected[STATUS])]
        assert self.said | {STATUS: statuses} == self.expected, self.log()

    def read(self) -> bool:
        """Take what is there; False at the end of the stream."""
        chunk = os.read(self.stdout.fileno(), 65536)
        for line in self._lines.feed(chunk):
            assert line is not None
            decode_worker_message(line)
            message = decode_line(line)
            if message["type"] != "progress":
                self.said[topic_of(message)].append(steady(message))
        return bool(chunk)

    def wait(self) -> int:
        """The exit status, once everything that was said is read."""
        if not self.stdout.closed:
            while self.read():
                pass
        return self.process.wait(TIMEOUT_S)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-3000:]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        for stream in (self.stdin, self.stdout, self._log):
            stream.close()


def play(path: Path, command: str, directory: Path) -> None:
    about, *rows = map(orjson.loads, path.read_bytes().splitlines())
    usual, *options = about["play"]
    session = Session(MODULES[command], options, directory)
    try:
        for row in rows:
            if row["dir"] == "worker":
                session.expect(decode_line(row["line"].encode()))
                continue
            session.wait_until_met()
            if row["dir"] == "host":
                text = base64.b64decode(row["base64"]) if "base64" in row else row["line"].encode()
                session.stdin.write(text * row.get("times", 1) + row.get("end", "\n").encode())
            elif row["dir"] == "close":
                {"stdin": session.stdin, "stdout": session.stdout}[row["stream"]].close()
            elif row["dir"] == "exit":
                status = session.wait()
                # A supervisor's exit status is 1 if a job failed.
                assert status == row["status"] or (command != usual and status == 1), session.log()
        assert session.said == session.expected
    finally:
        session.close()


def usual_command(path: Path) -> str:
    return str(orjson.loads(path.read_bytes().splitlines()[0])["play"][0])


@pytest.mark.parametrize("path", PLAYABLE, ids=lambda path: path.stem)
def test_a_real_daemon_says_what_the_transcript_says(path: Path, tmp_path: Path) -> None:
    play(path, usual_command(path), tmp_path)


@pytest.mark.parametrize(
    "path",
    [path for path in PLAYABLE if usual_command(path) == "worker" and path.stem not in WORKERS_OWN],
    ids=lambda path: path.stem,
)
def test_a_supervisor_is_transparent(path: Path, tmp_path: Path) -> None:
    play(path, "run", tmp_path)
