"""The script that asks each endpoint of a running sidecar, without a container."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serve_process import TIMEOUT_S, serve_process

_SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "review" / "check.py"


def _check(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, _SCRIPT, url, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * TIMEOUT_S,
    )


def test_every_row_is_ok_on_a_server_that_works(tmp_path: Path) -> None:
    with serve_process(tmp_path) as server:
        done = _check(server.url)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "every row is ok" in done.stdout


def test_a_method_that_the_server_does_not_run_is_a_row_that_failed(tmp_path: Path) -> None:
    with serve_process(tmp_path) as server:
        done = _check(server.url, "--methods", "esrgan,imagen")
    assert done.returncode == 1
    assert "2 of " in done.stdout.splitlines()[-1]
