"""The extra is looked for, imported late, and missed with a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from upscaled_models.registry import is_installed

if TYPE_CHECKING:
    from tests.conftest import StartDaemon

TIMEOUT_S = 60.0


def hide_the_sdk(folder: Path) -> dict[str, str]:
    """An environment in which there is a package `google`, and no SDK in it."""
    (folder / "google").mkdir()
    (folder / "google/__init__.py").touch()
    return {"PYTHONPATH": str(folder)}


def python(code: str, env: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        text=True,
        timeout=TIMEOUT_S,
        env=os.environ | env,
    ).stdout.strip()


@pytest.mark.skipif(not is_installed("imagen"), reason="needs pip install 'upscaled[imagen]'")
def test_nothing_of_the_sdk_is_imported_before_the_first_job() -> None:
    code = """
import sys
from pathlib import Path
from upscaled_models.engine import Settings
from upscaled_models.registry import default_methods, engine_class
engine = engine_class("imagen")
engine.preimport()
engine(Settings(model_dir=Path())).start()
print("imagen" in default_methods(), [name for name in sys.modules if name.startswith("google.")])
"""
    assert python(code, {}) == "True []"


def test_imagen_is_no_default_method_if_its_sdk_is_missing(tmp_path: Path) -> None:
    code = (
        "from upscaled_models.registry import default_methods; print('imagen' in default_methods())"
    )
    assert python(code, hide_the_sdk(tmp_path)) == "False"


def test_the_error_of_a_job_without_the_sdk_says_what_to_install(
    start_worker: StartDaemon, tmp_path: Path
) -> None:
    env = hide_the_sdk(tmp_path) | {"GCP_PROJECT_ID": "any"}
    worker = start_worker("--methods", "imagen,fake", env=env)
    worker.job("a", "imagen", image_path="a.png")
    error = worker.wait_terminal("a")
    assert error["code"] == "unknown_method"
    assert "pip install 'upscaled[imagen]'" in error["error"]
    worker.job("b")
    assert worker.wait_terminal("b")["type"] == "result"
