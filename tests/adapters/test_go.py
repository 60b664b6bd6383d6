"""The Go adapter: its own tests against real daemons, vet, and the conformance suite."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from golang import ROOT, needs_go, run

# The first build compiles the standard library for the race detector.
pytestmark = [needs_go, pytest.mark.timeout(600)]


def test_the_go_code_is_formatted_and_vetted() -> None:
    assert run("gofmt", "-l", ".") == ""
    run("go", "vet", "./...")


def test_the_go_client_holds_against_a_real_daemon_without_races() -> None:
    # Most tests wait for processes, so more of them run at once than there are cores. `go vet` has
    # a test of its own.
    run(
        "go",
        "test",
        "-vet=off",
        "-parallel=4",
        "-count=1",
        "-timeout=500s",
        ".",
        "./http",
        "./queue",
    )


def test_the_go_example_is_a_backend() -> None:
    run("go", "test", "-vet=off", "-count=1", "-timeout=500s", "./examples/...")


def test_the_go_client_meets_every_conformance_case(tmp_path: Path) -> None:
    driver = tmp_path / "driver"
    run("go", "build", "-o", driver, "./internal/conformance")
    suite = [sys.executable, "-m", "conformance"]
    run(*suite, "--timeout-s", "120", driver, cwd=ROOT / "protocol")
    run(*suite, "--http", "--timeout-s", "60", driver, cwd=ROOT / "protocol")
