"""The Node adapter: its own tests against a real daemon, and the conformance suite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODE = ROOT / "adapters" / "node"
OLDEST = 20

pytestmark = pytest.mark.timeout(300)


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command that must succeed, with our own `upscaled` in PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


@pytest.fixture(scope="module")
def built() -> Path:
    """The compiled adapter."""
    if shutil.which("npm") is None:
        pytest.skip("Node is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.removeprefix("v").split(".")[0]) < OLDEST:
        pytest.skip(f"Node is {version.stdout.strip()}; the adapter needs {OLDEST}")
    if not (NODE / "node_modules").is_dir():
        pytest.skip("adapters/node has no node_modules: run `make node`")
    run("npm", "run", "build", cwd=NODE)
    return NODE / "dist"


def test_the_node_client_holds_against_a_real_daemon(built: Path) -> None:
    run("node", "--test", *sorted(built.glob("test/*.test.js")), cwd=NODE)


def test_the_node_client_meets_every_conformance_case(built: Path) -> None:
    driver = built / "test" / "conformance.js"
    run(sys.executable, "-m", "conformance", "node", driver, cwd=ROOT / "protocol")
