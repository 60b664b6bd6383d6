"""spandrel can be imported beside a torch that torchvision was not built for."""

from __future__ import annotations

import subprocess
import sys

# All of torch is imported, which on a busy machine may take half a minute.
TIMEOUT_S = 200


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        check=True,
        timeout=TIMEOUT_S,
        text=True,
    )
    return done.stdout.strip()


def test_operators_that_load_or_are_declared_are_left_alone_and_else_they_are_declared() -> None:
    code = (
        "import torch\n"
        "from upscaled_models import torchvision_shim as shim\n"
        "really_load, shim._operators_load = shim._operators_load, lambda: True\n"
        "shim.declare_missing_operators()\n"
        "print(hasattr(torch.ops.torchvision, 'nms'))\n"
        "shim._operators_load = lambda: False\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "library.define('nms(Tensor boxes) -> Tensor')\n"
        "shim.declare_missing_operators(); print(torch.ops.torchvision.nms.default)\n"
        "library._destroy()\n"
        "shim._operators_load = really_load\n"
        "shim.import_torchvision()\n"
        "shim.import_torchvision()\n"
        "import torchvision; print(torchvision.__name__)"
    )
    assert run_python(code).split() == ["False", "torchvision.nms.default", "torchvision"]
