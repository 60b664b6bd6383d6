"""Hosts that misbehave: the daemon answers, and does not crash, spin or grow."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from waiting import TIMEOUT_S, wait_until

if TYPE_CHECKING:
    from tests.conftest import StartDaemon

# orjson reads as deep as 1024 levels, and writes less.
DEEP = b"[" * 1000 + b"]" * 1000
# A leak of one line per job adds up to three times this.
GROWTH_BYTES = 100e6
PADDING = "x" * 1_000_000


@pytest.mark.parametrize(
    "attempts", [b'"attempt":7,"config":{}', b'"config":{"exit_code":1,"only_on_attempt":1}']
)
def test_a_line_nested_as_deep_as_can_be_read_is_run(
    start_supervisor: StartDaemon, attempts: bytes
) -> None:
    daemon = start_supervisor()
    daemon.send(b'{"job_id":"a","method":"fake",%b,"x":%b} \n' % (attempts, DEEP))
    assert daemon.wait_terminal("a")["type"] == "result"
    daemon.job("b")
    assert daemon.wait_terminal("b")["type"] == "result"


def test_a_line_that_the_supervisor_accepts_is_not_too_long_for_its_worker(
    start_supervisor: StartDaemon,
) -> None:
    daemon = start_supervisor("--line-limit-bytes", "50000000")
    daemon.send({"job_id": "a", "method": "fake", "config": {}, "padding": "x" * 40_000_000})
    assert daemon.wait_terminal("a")["type"] == "result"


def test_a_long_line_does_not_keep_the_supervisor_busy(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor()
    job = {"job_id": "a", "method": "fake", "config": {"steps": 2, "at_step": 1, "hang": True}}
    daemon.send(job | {"padding": PADDING})
    daemon.wait_progress("a")
    daemon.wait_until_idle()


@pytest.mark.parametrize("case", ["a far deadline", "cancelled in the queue", "models of no use"])
def test_nothing_of_a_job_is_kept_once_it_has_ended(
    start_supervisor: StartDaemon, case: str
) -> None:
    daemon = start_supervisor()
    daemon.wait_status("ready")
    if case == "cancelled in the queue":
        for name in ("x", "y", "first in the queue"):
            daemon.job(name, hang=True)
    process = psutil.Process(daemon.pid)
    before = process.memory_info().rss
    for number in range(300):
        job: dict[str, Any] = {"job_id": str(number), "method": "fake", "config": {}}
        if case == "a far deadline":
            daemon.send(job | {"timeout_s": 3600, "padding": PADDING})
        elif case == "cancelled in the queue":
            cancel = {"type": "cancel", "job_id": str(number)}
            daemon.send(job | {"priority": -1, "padding": PADDING}, cancel)
        else:
            config = {"model": f"{number}{PADDING}", "error_code": "model_not_found"}
            daemon.send(job | {"config": config})
        daemon.wait_terminal(str(number))
    assert process.memory_info().rss < before + GROWTH_BYTES


def test_a_host_that_never_reads_is_not_read_either(start_supervisor: StartDaemon) -> None:
    """Each bad line has an answer. If they are not read, they must not fill the memory."""
    daemon = start_supervisor()
    daemon.wait_status("ready")
    daemon.stop_reading()
    lines = 200_000  # whose answers pass 16 MiB
    sender = threading.Thread(target=daemon.send, args=(b"not json\n" * lines,))
    sender.start()
    daemon.wait_until_idle()
    assert sender.is_alive()
    assert psutil.Process(daemon.pid).memory_info().rss < 150e6
    daemon.resume_reading()
    sender.join()
    daemon.finish()
    assert sum(line.get("code") == "invalid_json" for line in daemon.lines) == lines


def test_a_worker_whose_host_does_not_read_uses_no_processor_time(
    start_worker: StartDaemon,
) -> None:
    worker = start_worker()
    worker.wait_status("ready")
    worker.stop_reading()
    bad_lines = 150_000  # the answers pass 16 MiB, so that it stops reading
    worker.send(b"{}\n" * bad_lines)
    worker.close_stdin()
    worker.wait_until_idle()
    worker.resume_reading()
    assert worker.wait() == 0
    assert len(worker.terminals()) == bad_lines


def test_stdout_closed_from_the_start_is_a_host_that_is_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    daemon = subprocess.run(
        [sys.executable, "-m", "upscaled_supervisor", "--methods", "fake"],
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT_S,
        check=False,
    )
    os.close(writer)
    assert daemon.returncode == 4
    assert b"Traceback" not in daemon.stderr


def test_a_socket_that_breaks_is_a_host_that_is_gone() -> None:
    """A socket closed with unread data gives its peer an error instead of an end of file."""
    ours, theirs = socket.socketpair()
    daemon = subprocess.Popen(
        [sys.executable, "-m", "upscaled_supervisor", "--methods", "fake"],
        stdin=theirs.fileno(),
        stdout=theirs.fileno(),
        stderr=subprocess.PIPE,
    )
    theirs.close()
    ours.settimeout(TIMEOUT_S)
    assert ours.recv(1)
    ours.close()
    _, stderr = daemon.communicate(timeout=TIMEOUT_S)
    assert daemon.returncode == 4
    assert b"Traceback" not in stderr


@pytest.mark.parametrize("module", ["upscaled_supervisor", "upscaled_worker"])
def test_an_input_that_breaks_is_a_host_that_is_gone(module: str) -> None:
    """Even if its output is another stream that works."""
    ours, theirs = socket.socketpair()
    theirs.send(b"unread")
    daemon = subprocess.Popen(
        [sys.executable, "-m", module, "--methods", "fake"],
        stdin=theirs.fileno(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    theirs.close()
    ours.close()
    _, stderr = daemon.communicate(timeout=TIMEOUT_S)
    assert daemon.returncode == 4
    assert b"host_gone" in stderr
    assert b"Traceback" not in stderr


def test_a_full_disk_under_stdout_is_reported() -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        daemon = subprocess.run(
            [sys.executable, "-m", "upscaled_supervisor", "--methods", "fake"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert daemon.returncode == 4
    assert b"No space left on device" in daemon.stderr


@pytest.mark.parametrize("template", ["--template", "--no-template"])
def test_nothing_is_imported_from_the_folder_it_is_started_in(
    tmp_path: Path, template: str
) -> None:
    for module in ("random", "queue", "orjson", "upscaled_models"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('not a module')")
    daemon = subprocess.run(
        [sys.executable, "-P", "-m", "upscaled_supervisor", "--methods", "fake", template],
        input=b'{"job_id":"a","method":"fake"}\n',
        cwd=tmp_path,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert daemon.returncode == 0
    assert b'"type":"result"' in daemon.stdout


def test_a_child_of_the_shell_that_became_the_daemon_is_left_alone(tmp_path: Path) -> None:
    """As the `tee` in `exec upscaled run > >(tee results.jsonl)`."""
    script = 'sleep 600 >/dev/null 2>&1 & echo $! > child.pid; exec "$0" "$@"'
    daemon = subprocess.run(
        ["sh", "-c", script, sys.executable, "-m", "upscaled_supervisor", "--methods", "fake"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert daemon.returncode == 0
    child = psutil.Process(int((tmp_path / "child.pid").read_text()))
    wait_until(lambda: child.name() == "sleep", "the child's own program")
    assert child.status() != psutil.STATUS_ZOMBIE
    child.kill()


BLOCK_SIGNALS = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
"""


@pytest.mark.parametrize("module", ["upscaled_supervisor", "upscaled_worker"])
def test_signals_that_the_host_had_blocked_are_received(module: str) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-c", BLOCK_SIGNALS, module, "--methods", "fake"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert daemon.stdout is not None
    while b'"ready"' not in daemon.stdout.readline():
        pass
    daemon.terminate()
    try:
        assert daemon.wait(TIMEOUT_S) == 0
    finally:
        daemon.kill()
        daemon.communicate()
