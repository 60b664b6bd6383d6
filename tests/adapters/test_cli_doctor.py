"""`upscaled doctor` on a sound installation, and on one that is broken in many ways at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from upscaled_cli import exits
from upscaled_cli.doctor import main

# It loads every library several times over, from a cold disk on a busy machine.
TIMEOUT_S = 500

pytestmark = pytest.mark.timeout(600)


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "upscaled_cli", "doctor", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=os.environ | environment,
    )


def test_a_sound_installation_has_no_problem_and_upscales_a_picture(tmp_path: Path) -> None:
    done = doctor(MODEL_CACHE_DIR=str(tmp_path))
    assert done.returncode == exits.OK, done.stdout + done.stderr
    assert "ok       torch        torch " in done.stdout
    assert "picture      upscaled in" in done.stdout
    assert f"environment  MODEL_CACHE_DIR={tmp_path}" in done.stdout
    assert done.stdout.endswith("\n0 problems\n")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report on an installation with a damaged model, a bad library, bad settings."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "upscale_models").mkdir()
    (folder / "upscale_models" / "4x-UltraSharp.pth").write_bytes(b"cut short")
    (folder / "file").write_bytes(b"")
    (folder / "spandrel.py").write_text("raise ImportError('spandrel is broken')")
    done = doctor(
        "--json",
        MODEL_CACHE_DIR=str(folder),
        OUTPUT_DIR=str(folder / "file"),
        DEFAULT_DPI="many",
        PYTHONPATH=str(folder),
    )
    assert done.returncode == exits.FAILED
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"] is False
    return report


@pytest.mark.parametrize(
    ("name", "text", "fix"),
    [
        ("spandrel", "spandrel is broken", "pip install --force-reinstall spandrel"),
        ("models", "4x-UltraSharp", "upscaled models pull 4x-UltraSharp"),
        ("output", "cannot be written", "OUTPUT_DIR"),
        ("environment", "DEFAULT_DPI is no number: many", "DEFAULT_DPI"),
        ("picture", "none could be upscaled", "above"),
    ],
)
def test_each_problem_is_named_and_says_how_to_mend_it(
    broken: dict[str, Any], name: str, text: str, fix: str
) -> None:
    problems = [f for f in broken["findings"] if f["state"] == "problem" and f["name"] == name]
    assert any(text in f["text"] and fix in f["fix"] for f in problems), problems


def test_what_is_sound_beside_the_problems_is_no_problem(broken: dict[str, Any]) -> None:
    problems = {f["name"] for f in broken["findings"] if f["state"] == "problem"}
    assert problems == {"spandrel", "models", "output", "environment", "picture"}


def test_a_model_folder_that_cannot_be_looked_into_ends_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A name too long stands for a folder of somebody else's: root may look into those.
    folder = tmp_path / ("x" * 300)
    main(["--model-dir", str(folder)], [sys.executable, "-c", ""])
    assert f"models       {folder}: none pulled" in capsys.readouterr().out


def test_doctor_refuses_options_it_does_not_know() -> None:
    with pytest.raises(SystemExit) as left:
        main(["--cure"])
    assert left.value.code == exits.USAGE
