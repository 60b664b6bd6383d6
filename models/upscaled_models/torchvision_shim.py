"""torchvision's C++ operators, declared where they did not load.

Importing torchvision registers Python code for two of its C++ operators. Beside a torch of another
build (a CPU-only one, say) the library that declares them does not load, and the import dies with
"operator torchvision::nms does not exist". spandrel imports torchvision for pure Python functions
alone, so declaring the two without an implementation is all it takes.
"""

from __future__ import annotations

from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import torch
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
    declare_missing_operators()
    with compiler_on_demand():
        import_module("torchvision")


def declare_missing_operators() -> None:
    """Make `import torchvision` possible; does nothing where its operators load."""
    global _declared  # noqa: PLW0603 - operators are registered once a process
    if hasattr(torch.ops.torchvision, "nms") or _operators_load():
        return
    _declared = operators.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        _declared.define(schema)  # type: ignore[no-untyped-call]


def _operators_load() -> bool:
    spec = find_spec("torchvision")
    if spec is None or spec.submodule_search_locations is None:
        return False
    for folder in spec.submodule_search_locations:
        for suffix in (*EXTENSION_SUFFIXES, ".so"):
            library = Path(folder) / f"_C{suffix}"
            if library.is_file():
                try:
                    torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
                except OSError:
                    return False
                return True
    return False
