"""What is drawn while pictures are in work: bars on a terminal, lines in a log."""

from __future__ import annotations

import io
import os
import pty
import re
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from upscaled_cli.progress import LOG_INTERVAL_S, Progress

COLUMNS = 60
# What moves the cursor, or draws nothing.
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\r\n]")


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal:
    """A terminal of `COLUMNS` columns, and what was drawn on it."""

    def __init__(self, columns: int = COLUMNS) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, columns))
        os.set_blocking(self._ours, False)
        self.stream: TextIO = os.fdopen(theirs, "w", encoding="utf-8")

    def drawn(self) -> list[str]:
        """What was drawn since the last call, line by line."""
        self.stream.flush()
        found = b""
        try:
            while chunk := os.read(self._ours, 65536):
                found += chunk
        except BlockingIOError:
            pass
        return [line for line in CONTROL.split(found.decode()) if line.strip()]

    def close(self) -> None:
        self.stream.close()
        os.close(self._ours)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    yield opened
    opened.close()


def at(percent: float, stage: str = "upscale", **more: Any) -> dict[str, Any]:
    return {"progress": percent, "stage": stage, **more}


def test_a_terminal_shows_all_pictures_and_the_one_in_work_with_rates_and_time_left(
    terminal: Terminal,
) -> None:
    clock = Clock()
    with Progress(4, stream=terminal.stream, clock=clock) as progress:
        progress.starting()
        assert any("starting" in line for line in terminal.drawn())
        progress.advance("1", "photos/a.jpg", at(0, "load"))
        progress.advance("2", "photos/b.jpg", at(0, "waiting"))
        progress.advance("1", "photos/a.jpg", at(0.5, done=0, total=10))
        terminal.drawn()
        clock.now_s += 30
        progress.advance("1", "photos/a.jpg", at(50.5, done=5, total=10, eta_s=29.6))
        whole, picture = terminal.drawn()
        assert re.fullmatch(r" 13%\|.*\| 0/4 pictures, 3:30 left", whole)
        assert re.fullmatch(r"a\.jpg upscale  50%\|.*\| 5/10, 0\.17/s, 0:30 left", picture)
        clock.now_s += 30
        progress.end("1", is_failure=False)
        progress.advance("2", "photos/b.jpg", at(10, done=1, total=10))
        progress.end("2", is_failure=True)
        whole = terminal.drawn()[-1]
        assert re.fullmatch(r" 50%\|.*\| 2/4 pictures, 1 failed, 2/min, 1:00 left", whole)


def test_one_picture_needs_one_bar(terminal: Terminal) -> None:
    with Progress(1, stream=terminal.stream, clock=Clock()) as progress:
        progress.advance("1", "a.jpg", at(40, "decode"))
    assert not any("pictures" in line for line in terminal.drawn())


def test_a_bar_that_begins_again_is_drawn_on(terminal: Terminal) -> None:
    clock = Clock()
    with Progress(2, stream=terminal.stream, clock=clock) as progress:
        progress.advance("1", "a.jpg", at(95))
        progress.end("1", is_failure=False)
        for percent in (1, 2, 3):
            clock.now_s += 1
            progress.advance("2", "b.jpg", at(percent))
            assert any(f"b.jpg upscale   {percent}%" in line for line in terminal.drawn())


def test_no_line_is_wider_than_the_terminal_and_a_name_moves_no_cursor(terminal: Terminal) -> None:
    clock = Clock()
    name = f"{'long-' * 20}\x1b[2J\n{'name-' * 20}.jpg"
    with Progress(1200, stream=terminal.stream, clock=clock) as progress:
        for done in (0, 99, 500):
            clock.now_s += 500
            message = at(done / 10, "upscale", done=done, total=1000, eta_s=5000)
            progress.advance("1", name, message)
    drawn = terminal.drawn()
    assert max(map(len, drawn)) <= COLUMNS
    assert any(re.match(r"long-.*….*\.jpg upscale  50%\|", line) for line in drawn)


def test_a_log_gets_a_line_now_and_then(tmp_path: Path) -> None:
    clock, log = Clock(), io.StringIO()
    with Progress(3, stream=log, clock=clock) as progress:
        progress.starting()
        for second in range(int(LOG_INTERVAL_S) * 2):
            clock.now_s += 1
            progress.advance("1", "a.jpg", at(second, done=second, total=100, eta_s=9))
    assert log.getvalue().splitlines() == [
        "0/3 pictures, 4:31 left, a.jpg: upscale 29 %",
        "0/3 pictures, 4:01 left, a.jpg: upscale 59 %",
    ]


def test_a_terminal_without_columns_gets_the_lines_of_a_log() -> None:
    clock, terminal = Clock(), Terminal(columns=0)
    with Progress(1, stream=terminal.stream, clock=clock) as progress:
        clock.now_s += LOG_INTERVAL_S
        progress.advance("1", "a.jpg", at(50))
    assert terminal.drawn() == ["a.jpg: upscale 50 %"]
    terminal.close()


def test_the_log_of_one_picture_shows_its_time_left() -> None:
    clock, log = Clock(), io.StringIO()
    with Progress(1, stream=log, clock=clock) as progress:
        progress.advance("1", "a.jpg", at(0, done=0, total=8))
        clock.now_s += LOG_INTERVAL_S
        progress.advance("1", "a.jpg", at(50, done=3, total=8, eta_s=50))
        progress.end("1", is_failure=False)
    assert log.getvalue() == "a.jpg: upscale 50 %, 3/8, 0.1/s, 0:50 left\n"


def test_the_time_left_runs_on_without_messages_also_for_the_encoder(terminal: Terminal) -> None:
    clock = Clock()
    with Progress(1, stream=terminal.stream, clock=clock) as progress:
        progress.advance("1", "a.jpg", at(100, "encode", eta_s=25.0))
        assert terminal.drawn()[-1].endswith("| 0:25 left")
        clock.now_s += 10
        progress.tick()
        assert terminal.drawn()[-1].endswith("| 0:15 left")


def test_a_log_gets_its_line_without_messages() -> None:
    clock, log = Clock(), io.StringIO()
    with Progress(1, stream=log, clock=clock) as progress:
        progress.advance("1", "a.jpg", at(100, "encode", eta_s=40.0))
        clock.now_s += LOG_INTERVAL_S
        progress.tick()
    assert log.getvalue() == "a.jpg: encode 100 %, 0:10 left\n"


def test_a_line_moves_no_cursor_of_a_terminal_and_is_whole_in_a_log(terminal: Terminal) -> None:
    name, log = "e\x1b]0;x\x07.png", io.StringIO()
    with Progress(1, stream=terminal.stream) as progress:
        progress.say(name, terminal.stream)
        assert any("e?]0;x?.png" in line for line in terminal.drawn())
        progress.say(name, log)
    assert log.getvalue() == f"{name}\n"
