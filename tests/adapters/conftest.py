"""The Node packages, compiled once for all processes of a test run; a server of models."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_server import Server, running_server
from nodejs import NESTJS, NODE, is_installed, require_node, run
from upscale_daemon import written_daemon


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of models on loopback."""
    with running_server() as running:
        yield running


@pytest.fixture(scope="session")
def node_packages(tmp_path_factory: pytest.TempPathFactory) -> None:
    """`dist` of every Node package here: not to be compiled again, for others may be using it."""
    require_node()
    run_folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run_folder = run_folder.parent
    with (run_folder / "node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run_folder / "node.built"
        if not done.exists():
            # The one package's build begins with the other's.
            run("npm", "run", "build", cwd=NESTJS if is_installed(NESTJS) else NODE)
            done.touch()


@pytest.fixture
def daemon(tmp_path: Path) -> list[str]:
    """The command of a stand-in daemon for `upscaled upscale`."""
    return written_daemon(tmp_path)
