"""Without the flux extra the other methods work, and a FLUX job is told what to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import StartDaemon

# Hides the extra's packages from every import.
_HIDDEN = """
import importlib.machinery as machinery
find = machinery.PathFinder.find_spec
def hide(name, path=None, target=None):
    hidden = {"accelerate", "diffusers", "gguf", "tokenizers", "transformers"}
    return None if name.partition(".")[0] in hidden else find(name, path, target)
machinery.PathFinder.find_spec = staticmethod(hide)
"""


@pytest.fixture
def without_extra(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sitecustomize.py").write_text(_HIDDEN)
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}


def test_flux_is_served_by_itself_only_where_it_can_be(
    start_daemon: StartDaemon, without_extra: dict[str, str]
) -> None:
    worker = start_daemon("upscaled_worker", env=without_extra)
    ready = worker.wait_status("ready")
    assert "esrgan" in ready["methods"]
    assert "flux" not in ready["methods"]
    assert "detail" not in ready


def test_a_job_for_a_missing_extra_is_told_how_to_install_it(
    start_worker: StartDaemon, without_extra: dict[str, str]
) -> None:
    worker = start_worker("--methods", "fake,flux", env=without_extra)
    worker.job("a", "flux", image_path="a.png")
    error = worker.wait_terminal("a")
    assert error["code"] == "unknown_method"
    assert "pip install 'upscaled[flux]'" in error["error"]
    worker.job("b")
    assert worker.wait_terminal("b")["type"] == "result"
