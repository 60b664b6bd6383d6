"""Claiming stdio, with real processes; and writing without ever waiting for the reader."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from upscaled_protocol.stdio import NonBlockingWriter
from waiting import TIMEOUT_S

PRINTS = """
import ctypes, os, subprocess, sys
print("before the claim, still in Python's buffer")
from upscaled_protocol.stdio import claim_stdio
wire = claim_stdio()
os.write(wire.write_fd, b"first line\\n")
print("python print")
sys.stdout.write("python write without a newline")
sys.stdout.flush()
libc = ctypes.CDLL(None)
libc.puts(b"c puts")
libc.fflush(None)
libc.write(1, b"c write\\n", 8)
subprocess.run(["echo", "subprocess echo"], check=True)
os.system("echo shell echo")
os.write(1, b"os write\\n")
os.write(wire.write_fd, b"last line\\n")
"""


def run(program: str, *, stdin: bytes = b"", shell: str = "") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", program]
    if shell:
        command = ["sh", "-c", f'exec "$0" "$@" {shell}', *command]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        command, input=stdin, capture_output=True, timeout=TIMEOUT_S, check=False, env=env
    )


def test_stdout_has_only_protocol_lines_whatever_prints() -> None:
    done = run(PRINTS)
    assert done.stdout == b"first line\nlast line\n"
    for text in (
        b"before the claim",
        b"python print",
        b"python write",
        b"c puts",
        b"c write",
        b"subprocess echo",
        b"shell echo",
        b"os write",
    ):
        assert text in done.stderr
    assert done.returncode == 0


def test_stdout_has_only_protocol_lines_if_stderr_is_closed() -> None:
    done = run(PRINTS, shell="2>&-")
    assert (done.stdout, done.stderr, done.returncode) == (b"first line\nlast line\n", b"", 0)


def test_a_print_that_stderr_cannot_encode_does_not_fail() -> None:
    program = (
        "from upscaled_protocol.stdio import claim_stdio\n"
        "claim_stdio()\n"
        "print('cannot read caf\\udce9.png')\n"
    )
    done = run(program)
    assert (done.stderr, done.returncode) == (b"cannot read caf\\udce9.png\n", 0)


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_a_print_that_cannot_be_written_does_not_fail(stderr: str) -> None:
    program = """
import os, sys
from upscaled_protocol.stdio import claim_stdio
wire = claim_stdio()
print("a line of a library")
print("another one", file=sys.stderr)
sys.stderr.flush()
os.write(wire.write_fd, b"a result\\n")
"""
    done = run(program, shell=stderr)
    assert (done.stdout, done.returncode) == (b"a result\n", 0)


def test_the_hosts_lines_are_read_from_the_wire_and_stdin_is_at_its_end() -> None:
    program = (
        "import os, subprocess, sys\n"
        "from upscaled_protocol.stdio import claim_stdio\n"
        "wire = claim_stdio()\n"
        "print('stdin has', repr(sys.stdin.read()))\n"
        "subprocess.run(['cat'], check=True)\n"
        "os.write(wire.write_fd, os.read(wire.read_fd, 100))\n"
    )
    done = run(program, stdin=b'{"type":"health"}\n')
    assert done.stdout == b'{"type":"health"}\n'
    assert done.stderr == b"stdin has ''\n"


def test_no_program_started_later_inherits_the_wire() -> None:
    program = (
        "import os, subprocess, sys\n"
        "from upscaled_protocol.stdio import claim_stdio\n"
        "wire = claim_stdio()\n"
        "mine = {os.readlink(f'/proc/self/fd/{fd}') for fd in wire}\n"
        "assert min(wire) > 2 and len(mine) == 2\n"
        "look = 'import os; print(*[os.readlink(f\"/proc/self/fd/{fd}\") '\\\n"
        "    'for fd in range(100) if os.path.exists(f\"/proc/self/fd/{fd}\")])'\n"
        "seen = subprocess.run([sys.executable, '-c', look], check=True, close_fds=False,\n"
        "    stdout=subprocess.PIPE, text=True).stdout.split()\n"
        "assert seen, 'looked at nothing'\n"
        "sys.exit(', '.join(mine & set(seen)) or 0)\n"
    )
    done = run(program)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("closed", "reason"), [("<&-", b"stdin is closed"), (">&-", b"stdout is closed")]
)
def test_a_closed_stdin_or_stdout_is_reported(closed: str, reason: bytes) -> None:
    done = run("from upscaled_protocol.stdio import claim_stdio; claim_stdio()", shell=closed)
    assert done.returncode == 2
    assert done.stderr.startswith(reason)
    assert done.stderr.count(b"\n") == 1


def test_a_closed_stdin_is_not_reported_on_stdout_if_stderr_is_closed_too() -> None:
    done = run("from upscaled_protocol.stdio import claim_stdio; claim_stdio()", shell="<&- 2>&-")
    assert (done.returncode, done.stdout) == (2, b"")


# --- writing ----------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends; a test may close either of them itself."""
    ends = os.pipe()
    yield ends
    for end in ends:
        if is_open(end):
            os.close(end)


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A Unix socket's two ends: what Node gives its children as stdio."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def fill(writer: NonBlockingWriter) -> int:
    """Write until nothing more is taken; how many bytes were."""
    total = 0
    while taken := writer.write(b"x" * 100_000):
        total += taken
    return total


def test_a_full_pipe_takes_nothing_and_does_not_block(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = pipe
    writer = NonBlockingWriter(write_fd)
    filled = fill(writer)
    assert filled >= select.PIPE_BUF
    assert writer.write(b"more") == 0
    assert len(os.read(read_fd, filled)) == filled
    assert writer.write(b"more") == 4


def test_a_full_socket_takes_nothing_and_does_not_block(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = connection
    writer = NonBlockingWriter(ours.fileno())
    left = filled = fill(writer)
    assert filled > 0
    assert writer.write(b"more") == 0
    while left:
        left -= len(theirs.recv(left))
    assert writer.write(b"more") == 4
    assert theirs.recv(10) == b"more"


@pytest.mark.parametrize("full", [False, True])
def test_a_pipe_whose_reader_is_gone_is_an_error(pipe: tuple[int, int], full: bool) -> None:
    read_fd, write_fd = pipe
    writer = NonBlockingWriter(write_fd)
    if full:
        fill(writer)
    os.close(read_fd)
    with pytest.raises(BrokenPipeError):
        writer.write(b"more")


@pytest.mark.parametrize("full", [False, True])
def test_a_socket_whose_reader_is_gone_is_an_error(
    connection: tuple[socket.socket, socket.socket], full: bool
) -> None:
    ours, theirs = connection
    writer = NonBlockingWriter(ours.fileno())
    if full:
        fill(writer)
    theirs.close()
    with pytest.raises(OSError, match=r"Broken pipe|Connection reset"):
        writer.write(b"more")


def test_the_open_file_keeps_its_flags(
    pipe: tuple[int, int], connection: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    with (tmp_path / "out").open("wb") as file:
        for fd in (pipe[1], connection[0].fileno(), file.fileno()):
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            NonBlockingWriter(fd).write(b"line\n")
            assert fcntl.fcntl(fd, fcntl.F_GETFL) == flags
            assert not flags & os.O_NONBLOCK


def test_a_pipe_that_is_non_blocking_already_works(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    writer = NonBlockingWriter(pipe[1])
    assert fill(writer) >= select.PIPE_BUF
    assert writer.write(b"more") == 0


def test_a_regular_file_takes_everything(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as file:
        data = b"x" * 1_000_000
        assert NonBlockingWriter(file.fileno()).write(data) == len(data)
    assert path.read_bytes() == data


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_taken_arrives_in_order_and_whole(
    kind: str, pipe: tuple[int, int], connection: tuple[socket.socket, socket.socket]
) -> None:
    read_fd, write_fd = pipe if kind == "pipe" else [end.fileno() for end in connection]
    if kind == "socket":
        read_fd, write_fd = write_fd, read_fd
    data = os.urandom(500_000)
    received = bytearray()

    def receive() -> None:
        while len(received) < len(data):
            received.extend(os.read(read_fd, 7777))

    reader = threading.Thread(target=receive)
    reader.start()
    writer = NonBlockingWriter(write_fd)
    poll = select.poll()
    poll.register(write_fd, select.POLLOUT)
    rest = memoryview(data)
    while rest:
        assert poll.poll(1000 * TIMEOUT_S)
        rest = rest[writer.write(rest) :]
    reader.join(TIMEOUT_S)
    assert received == data
