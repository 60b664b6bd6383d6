"""torchvision's C++ operators, declared if they do not load.

Importing torchvision registers Python code for two of its C++ operators. Beside a torch of another
build (a CPU-only one, say) the library that declares them does not load, and the import ends with
"operator torchvision::nms does not exist". spandrel imports torchvision for pure Python functions
alone, so declaring the two without an implementation is all it takes.

They are declared after an import that failed, and not before the first: a library that does load
ends the process if another one has declared them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from torch import library as operators

from upscaled_models.torchparts import compiler_on_demand

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# A library's declarations live as long as this object does.
_declared: operators.Library | None = None


def import_torchvision() -> None:
    """Import torchvision without torch's compiler; does nothing if it is not installed."""
    if find_spec("torchvision") is None:
        return
    with compiler_on_demand():
        try:
            import_module("torchvision")
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
            _forget("torchvision")
            _declare_operators()
            import_module("torchvision")


def _declare_operators() -> None:
    global _declared  # noqa: PLW0603 - operators are registered once a process
    _declared = operators.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        _declared.define(schema)  # type: ignore[no-untyped-call]


def _forget(package: str) -> None:
    """Forget modules of an import that failed: the next import would not bind them to it."""
    for name in list(sys.modules):
        if name == package or name.startswith(f"{package}."):
            del sys.modules[name]
