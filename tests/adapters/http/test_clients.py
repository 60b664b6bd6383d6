"""Every client against a real server and daemon, with a key: the live conformance cases."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from golang import ROOT, needs_go, run
from nodejs import NODE
from running_serve import RunningServe, running_serve
from upscaled_http.keys import Key

KEY = "a key of the tests"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServe]:
    keys = {"keys": (Key.of("test", KEY),)}
    with running_serve(tmp_path_factory.mktemp("data"), auth=keys) as running:
        yield running


def play(serve: RunningServe, *driver: str | Path) -> None:
    """Play the live cases; all of them must hold."""
    options = ["--timeout-s", "120", "--url", serve.url, "--key", KEY]
    done = subprocess.run(
        [sys.executable, "-m", "conformance", *options, *map(str, driver)],
        cwd=ROOT / "protocol",
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_python_client_meets_every_live_case(serve: RunningServe) -> None:
    play(serve, sys.executable, ROOT / "adapters/python/conformance_driver.py")


@pytest.mark.usefixtures("node_packages")
def test_the_node_client_meets_every_live_case(serve: RunningServe) -> None:
    play(serve, "node", NODE / "dist" / "test" / "conformance.js")


@needs_go
def test_the_go_client_meets_every_live_case(serve: RunningServe, tmp_path: Path) -> None:
    driver = tmp_path / "driver"
    run("go", "build", "-o", driver, "./internal/conformance")
    play(serve, driver)
