"""What the supervisor reads of a worker's pipes at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from upscaled_supervisor.pipes import Pipes, open_pipes


class Writer:
    """A worker's end of its stderr."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)

    def fill(self) -> int:
        """Write lines until the pipe is full; their number."""
        written = 0
        with suppress(BlockingIOError):
            while True:
                written += os.write(self.fd, b"w\n" * 1024)
        return written // 2


@pytest.fixture
def both() -> Iterator[tuple[Pipes, Writer]]:
    theirs, ours = open_pipes()
    pipes, writer = Pipes(*ours), Writer(theirs.pop())
    yield pipes, writer
    pipes.close()
    for fd in theirs:
        os.close(fd)


def test_a_worker_that_writes_as_fast_as_it_is_read_is_not_read_without_end(
    both: tuple[Pipes, Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipes, writer = both
    held = writer.fill()
    reads, read = 0, os.read

    def read_and_fill(fd: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        assert reads < 100, "the supervisor does nothing else"
        chunk = read(fd, size)
        writer.fill()
        return chunk

    with monkeypatch.context() as patched:
        patched.setattr(os, "read", read_and_fill)
        lines, ended = pipes.read_stderr()
    os.close(writer.fd)
    assert held <= len(lines) <= 2 * held
    assert not ended


def test_the_last_lines_of_a_worker_that_has_exited_are_read_at_once(
    both: tuple[Pipes, Writer],
) -> None:
    pipes, writer = both
    held = writer.fill()
    os.close(writer.fd)
    lines, ended = pipes.read_stderr()
    assert (len(lines), ended) == (held, True)
