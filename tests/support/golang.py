"""The Go adapter's tools, offline."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GO = ROOT / "adapters" / "go"
# Nothing is fetched: the adapter needs the standard library alone. Every build is for the race
# detector, which needs a C compiler; then the standard library is compiled once.
GO_SETTINGS = {"GOPROXY": "off", "GOFLAGS": "-mod=mod -race", "GOTOOLCHAIN": "local"}

needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")


def run(*command: str | Path, cwd: Path = GO) -> str:
    """Run a command that must succeed, with our own `upscaled` in PATH. Returns its stdout."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | GO_SETTINGS | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    return done.stdout
