"""No Python file in the working folder is run: it may be a folder of downloads."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from upscaled import Upscaler
from upscaled.command import default_command

ROOT = Path(__file__).parents[2]
UPSCALED = Path(sys.executable).with_name("upscaled")
TIMEOUT_S = 120

# Names of the standard library's, of a dependency's and of our own modules.
NAMES = ("types", "queue", "tempfile", "selectors", "orjson", "torch", "upscaled_protocol")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with modules that note that they were run."""
    for name in NAMES:
        code = f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\nraise ImportError"
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("options", [(), ("--no-template",)])
def test_the_python_clients_daemon_runs_nothing(folder: Path, options: tuple[str, ...]) -> None:
    with Upscaler(command=[*default_command(), "--methods", "fake", *options]) as up:
        job = {"method": "fake", "config": {"subprocess_text": "a child"}}
        assert up.submit_job(job).result(TIMEOUT_S).status == "completed"
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--methods", "fake"),
        ("worker", "--methods", "fake"),
        ("jobs", "a.jpg"),
        ("models", "list"),
    ],
)
def test_the_command_runs_nothing(folder: Path, arguments: tuple[str, ...]) -> None:
    subprocess.run(
        [UPSCALED, *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    assert not (folder / "ran").exists()


def test_whatever_starts_a_python_of_ours_gives_it_p() -> None:
    starts: list[str] = []
    for part in (
        "adapters/python",
        "adapters/shell",
        "examples",
        "models",
        "protocol/upscaled_protocol",
    ):
        starts += started_by(ROOT / part)
    starts += started_by(ROOT / "supervisor") + started_by(ROOT / "worker")
    assert len(starts) >= 5
    assert set(starts) == {"-P"}


def started_by(part: Path) -> list[str]:
    """The first option of each Python that the code below starts; `utf8.py` starts the same command
    line once more."""
    text = "\n".join(
        path.read_text("utf-8") for path in sorted(part.rglob("*.py")) if path.name != "utf8.py"
    )
    return re.findall(r'sys\.executable,\s*"(-\w+)"', text)
