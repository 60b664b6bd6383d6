"""`make docs-test`: every command of every page runs as written, in a copy of the checkout.

The blocks of a page run in order, each in a new shell in the root of the page's copy. What a block
installs, starts or writes is there for the blocks below it. CONTRIBUTING.md tells how to write
them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from documents import INTERPRETERS, ROOT, SHELLS, Block, blocks, files, pages

# A block may install torch and its libraries, or build a package.
BLOCK_S = 1200.0
# A server says that it is up, or ends, within this time.
SERVER_S = 120.0

BLOCKS = [block for page in pages() for block in blocks(page) if block.is_runnable]

pytestmark = [pytest.mark.docs, pytest.mark.timeout(BLOCK_S + 2 * SERVER_S)]


class Workspace:
    """A copy of the checkout for one page, and the servers that the page has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._servers: list[tuple[subprocess.Popen[str], threading.Thread]] = []
        for name in files():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)

    def run(self, block: Block) -> None:
        """Run a block to its end; it must succeed."""
        process = self._start(block)
        try:
            said, _ = process.communicate(timeout=BLOCK_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            pytest.fail(f"{block} did not end within {BLOCK_S:g} s:\n{said[-8000:]}")
        assert process.returncode == 0, f"{block}: exit {process.returncode}\n{said[-8000:]}"

    def serve(self, block: Block) -> None:
        """Start a block, and return when it has printed the lines that the page shows."""
        process = self._start(block)
        missing = [_pattern(line) for line in block.shown]
        said: list[str] = []
        is_up = threading.Event()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                missing[:] = [one for one in missing if not one.search(line)]
                if not missing:
                    is_up.set()
            is_up.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        self._servers.append((process, reader))
        is_up.wait(SERVER_S)
        assert not missing, f"{block} never printed {missing}:\n{''.join(said)[-8000:]}"

    def close(self) -> None:
        """End the servers, the last one first."""
        for process, reader in reversed(self._servers):
            # What is left of a server that has ended keeps the group.
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                reader.join(SERVER_S)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def _start(self, block: Block) -> subprocess.Popen[str]:
        if block.language in SHELLS:
            script = block.script
        else:
            command = INTERPRETERS[block.language].format(f"block-{block.line}")
            (self.folder / command.split()[-1]).write_text(block.text, "utf-8")
            script = command
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        models = str(self.folder / ".cache" / "models")
        return subprocess.Popen(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            cwd=self.folder,
            # An index of packages that cannot be reached here is passed over soon.
            env=os.environ | {"PATH": path, "MODEL_CACHE_DIR": models, "PIP_RETRIES": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )


def _pattern(shown: str) -> re.Pattern[str]:
    """A line as a page shows it: `…` stands for anything."""
    return re.compile(".*".join(re.escape(part) for part in shown.split("…")))


@pytest.fixture(scope="module")
def workspace(request: pytest.FixtureRequest) -> Iterator[Workspace]:
    """The workspace of the page that the parameter names."""
    with tempfile.TemporaryDirectory(prefix="upscaled-docs-") as folder:
        workspace = Workspace(Path(folder))
        yield workspace
        workspace.close()


@pytest.mark.parametrize(
    ("workspace", "block"),
    [pytest.param(block.page, block, id=str(block)) for block in BLOCKS],
    indirect=["workspace"],
    scope="module",  # else pytest makes a workspace for each block
)
def test_a_block_runs_as_written(workspace: Workspace, block: Block) -> None:
    if block.not_run is not None:
        pytest.skip(f"not run: {block.not_run}")
    elif block.is_server:
        workspace.serve(block)
    else:
        workspace.run(block)
