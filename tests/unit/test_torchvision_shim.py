"""spandrel can be imported beside a torch that torchvision was not built for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# All of torch is imported, which on a busy machine may take half a minute.
TIMEOUT_S = 200


# Stands in for a torchvision. What it does at its import is put behind it.
STAND_IN = """
import torch
library = torch.library.Library("torchvision", "FRAGMENT")

def define():
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
ITS_OPERATORS_LOAD = "define()"
ITS_OPERATORS_DO_NOT_LOAD = """
from . import part
torch.library.register_fake("torchvision::nms", lambda dets, scores, threshold: dets)
import torchvision.part
torchvision.part.name
"""
IMPORT = (
    "from upscaled_models.torchvision_shim import import_torchvision as imported\n"
    "imported(); imported(); import torch, torchvision\n"
    "print(torchvision.__name__, torch.ops.torchvision.nms.default)"
)


def run_python(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))},
        timeout=TIMEOUT_S,
        text=True,
    )


def stand_in(folder: Path, at_import: str) -> Path:
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(STAND_IN + at_import)
    (package / "part.py").write_text("name = __name__")
    return folder


def test_the_installed_torchvision_is_imported() -> None:
    done = run_python(IMPORT)
    assert done.stdout.split() == ["torchvision", "torchvision.nms.default"], done.stderr


@pytest.mark.parametrize("at_import", [ITS_OPERATORS_LOAD, ITS_OPERATORS_DO_NOT_LOAD])
def test_operators_are_declared_only_if_they_do_not_load(tmp_path: Path, at_import: str) -> None:
    done = run_python(IMPORT, stand_in(tmp_path, at_import))
    assert done.stdout.split() == ["torchvision", "torchvision.nms.default"], done.stderr


def test_any_other_fault_of_torchvision_is_raised(tmp_path: Path) -> None:
    done = run_python(IMPORT, stand_in(tmp_path, "raise RuntimeError('no CUDA of this version')"))
    assert "RuntimeError: no CUDA of this version" in done.stderr
