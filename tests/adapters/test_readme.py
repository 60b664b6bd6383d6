"""The README's first screen, run word for word.

The shell session has the bundled network. The other lines have the same daemon, with an engine that
repeats pixels.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import nearest_engine
from golang import GO_SETTINGS, needs_go
from nodejs import NODE
from upscaled_protocol.messages import Progress

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
ENV = (
    os.environ
    | GO_SETTINGS
    | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
)
GO_MODULE = "github.com/upscaled/upscaled/adapters/go"
Message = dict[str, Any]
# What differs from machine to machine and from run to run.
VOLATILE = {"version", "methods", "device", "progress", "done", "total", "eta_s", "stage"}

pytestmark = pytest.mark.timeout(600)


def block(language: str) -> str:
    """The first block of code in that language."""
    found = re.search(rf"^```{language}\b[^\n]*\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found.group(1)


def run(command: list[str], folder: Path, **variables: str) -> str:
    """What a command that must succeed prints."""
    env = ENV | variables
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def is_shown(message: Message, expected: Message) -> bool:
    """True if a message is the README's, apart from values that differ per run."""
    # Who reads late gets the newest progress alone, and that may be of a stage that counts nothing.
    fields = Progress.model_fields if message["type"] == "progress" else message
    return set(expected) <= set(fields) and all(
        str(message.get(name)).endswith(str(expected[name]).removeprefix("…"))
        for name in set(expected) - VOLATILE
    )


def size_of(path: Path) -> tuple[int, int]:
    """Width and height."""
    with Image.open(path) as image:
        return image.size


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder in which the snippets run, with their in.png."""
    Image.new("RGB", (24, 16), "teal").save(tmp_path / "in.png")
    return tmp_path


def test_the_shell_session_says_what_the_readme_shows(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "astronaut.jpg", tmp_path / "examples")
    prompt, *shown = block("console").splitlines()
    said = run(["bash", "-c", prompt.removeprefix("$ ")], tmp_path)
    messages = [json.loads(line) for line in said.splitlines()]
    for line in shown:
        expected = json.loads(re.sub(r",…\}$", "}", line))
        assert any(is_shown(message, expected) for message in messages), line
    assert (tmp_path / "examples" / "astronaut_esrgan_4x.png").is_file()


def test_the_python_lines_upscale_a_picture(folder: Path) -> None:
    command = [sys.executable, "-c", block("python")]
    said = run(command, folder, **nearest_engine.variables())
    assert "%" in said
    assert "Size(width=96, height=64)" in said
    assert size_of(folder / "out.png") == (96, 64)


@pytest.mark.usefixtures("node_packages")
def test_the_node_lines_upscale_a_picture(folder: Path) -> None:
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "upscaled").symlink_to(NODE)
    (folder / "host.mjs").write_text(block("js"))
    said = run(["node", "host.mjs"], folder, **nearest_engine.variables())
    assert "%" in said
    assert "{ width: 96, height: 64 }" in said
    assert size_of(folder / "out.png") == (96, 64)


@needs_go
def test_the_go_lines_upscale_a_picture(folder: Path) -> None:
    (folder / "main.go").write_text(block("go"))
    (folder / "go.mod").write_text(
        f"module host\n\ngo 1.19\n\nrequire {GO_MODULE} v0.1.0\n\n"
        f"replace {GO_MODULE} => {ROOT / 'adapters' / 'go'}\n"
    )
    said = run(["go", "run", "."], folder, **nearest_engine.variables())
    assert "%" in said
    assert "<nil>" in said
    assert size_of(folder / "out.png") == (96, 64)
