"""More jobs than a daemon takes: they wait, and its memory does not grow with them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from tests.conftest import StartDaemon

DAEMONS = ["upscaled_supervisor", "upscaled_worker"]
# A daemon that held every line of the flood would grow by ten times as much.
GROWTH_BYTES = 150e6


@pytest.mark.parametrize(
    ("module", "kind"),
    [("upscaled_worker", "file"), ("upscaled_supervisor", "file"), ("upscaled_supervisor", "pipe")],
)
def test_more_lines_than_the_queue_holds_are_all_done(
    module: str, kind: str, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text("".join(f'{{"job_id":"{n}","method":"fake"}}\n' for n in range(50)))
    argv = [sys.executable, "-m", module, "--methods", "fake", "--max-queue", "3"]
    with jobs.open("rb") as stdin:
        source: dict[str, Any] = {"input": stdin.read()} if kind == "pipe" else {"stdin": stdin}
        done = subprocess.run(argv, check=False, capture_output=True, timeout=120, **source)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b'"type":"result"') == 50


@pytest.mark.parametrize("module", DAEMONS)
def test_a_host_that_writes_on_and_on_does_not_make_the_daemon_grow(
    start_daemon: StartDaemon, module: str
) -> None:
    daemon = start_daemon(module, "--methods", "fake", "--max-queue", "10")
    for name in ("a", "b"):
        daemon.job(name, hang=True)
        daemon.wait_accepted(name)
    before = psutil.Process(daemon.pid).memory_info().rss
    assert daemon.process.stdin is not None
    pipe = daemon.process.stdin.fileno()
    os.set_blocking(pipe, False)
    number = 0
    # Until the daemon reads no more. (If it only pauses, less is written, and nothing is proven.)
    while select.select([], [pipe], [], 1.0)[1] and number < 1_000_000:
        line = b'{"job_id":"%d","method":"fake","config":{"output_text":"%b"}}\n' % (
            number,
            b"x" * 900,
        )
        while line:
            select.select([], [pipe], [])
            line = line[os.write(pipe, line) :]
        number += 1
    assert number < 1_000_000
    assert psutil.Process(daemon.pid).memory_info().rss < before + GROWTH_BYTES
