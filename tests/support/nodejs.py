"""What the tests of the Node packages share: the search for Node, and commands that must work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODE = ROOT / "adapters" / "node"
NESTJS = NODE / "nestjs"

# As in `engines` of the packages.
OLDEST = 20

# Far beyond what anything takes; the tests inside have bounds of their own.
TIMEOUT_S = 300.0


def is_installed(package: Path) -> bool:
    """Whether the packages that the build needs are installed."""
    return (package / "node_modules").is_dir()


def require_node(package: Path = NODE) -> None:
    """Skip, with the reason, if the package cannot be built."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.removeprefix("v").split(".")[0]) < OLDEST:
        pytest.skip(f"Node is {version.stdout.strip()}; the adapter needs {OLDEST}")
    if not is_installed(package):
        pytest.skip(f"{package.relative_to(ROOT)} has no node_modules: run `make node`")


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command that must succeed, with our own `upscaled` in PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # The runner's children too, because one of them may hang.
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        pytest.fail(f"{command[0]} did not end: {said[-8000:]}")
    assert process.returncode == 0, said[-8000:]
