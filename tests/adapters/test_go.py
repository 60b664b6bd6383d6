"""The Go adapter: its own tests against real daemons, vet, and the conformance suite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GO = ROOT / "adapters" / "go"
# The standard library is all that it needs, and nothing is fetched.
OFFLINE = {"GOPROXY": "off", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed"),
    # The first build compiles the standard library for the race detector.
    pytest.mark.timeout(600),
]


def run(*command: str | Path, cwd: Path = GO) -> str:
    """What a command that must succeed says, with our own `upscaled` in PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | OFFLINE | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    return done.stdout


def test_the_go_code_is_formatted_and_vetted() -> None:
    assert run("gofmt", "-l", ".") == ""
    run("go", "vet", "./...")


def test_the_go_client_holds_against_a_real_daemon_without_races() -> None:
    # The race detector needs a C compiler, as does the rest of this project. Most tests wait for
    # processes, so more of them run at once than there are cores. `go vet` has a test of its own.
    run("go", "test", "-race", "-vet=off", "-parallel=4", "-count=1", "-timeout=500s", ".")


def test_the_go_example_is_a_backend() -> None:
    run("go", "test", "-vet=off", "-count=1", "-timeout=500s", "./examples/...")


def test_the_go_client_meets_every_conformance_case(tmp_path: Path) -> None:
    driver = tmp_path / "driver"
    run("go", "build", "-race", "-o", driver, "./internal/conformance")
    run(sys.executable, "-m", "conformance", "--timeout-s", "120", driver, cwd=ROOT / "protocol")
