"""Keeps two parts of torch out of a worker's start: its compiler and its distributed tensors.

Nothing here uses them. Their imports, with sympy, take a third of the processor time of a start and
35 MB. They are not imported by name: one of torchvision's modules asks the compiler whether it
supports a device, torch looks for the class of distributed tensors when it first calls a subclass
of `Tensor` in Python, and asks the compiler to leave some functions alone when it first calls them.
For that moment a stand-in is among the imported modules.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_COMPILERS_PACKAGE = "torch._dynamo"
_COMPILER = f"{_COMPILERS_PACKAGE}.utils"
_DISTRIBUTED = "torch.distributed.tensor"


@contextlib.contextmanager
def compiler_on_demand() -> Iterator[None]:
    """Inside, an import from the compiler gets functions that import it when they are called."""
    with _in_place_of(_COMPILER, _Compiler(_COMPILER)):
        yield


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Inside, functions that torch's compiler must leave alone are taken as they are. torch asks
    the compiler for that when it first calls them, among others for shapes."""
    stand_in = ModuleType(_COMPILERS_PACKAGE)
    stand_in.__dict__["disable"] = lambda function, *_, **__: function
    with _in_place_of(_COMPILERS_PACKAGE, stand_in):
        yield


def settle_distributed_tensors() -> None:
    """Make torch take an empty class for that of distributed tensors, for the rest of the process:
    it looks once. Such tensors cannot be used any more, and importing their module still works.

    Does nothing if the module is already imported, or if torch looks for something else in it.
    """
    stand_in = ModuleType(_DISTRIBUTED)
    stand_in.__dict__["DTensor"] = type("DTensor", (), {})
    with (
        contextlib.suppress(AttributeError, ImportError, RuntimeError),
        _in_place_of(_DISTRIBUTED, stand_in),
    ):
        torch.neg(_Called(torch.zeros(1)))


class _Called(Tensor):
    """A tensor whose operations are called in Python."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return torch.zeros(1)


class _Compiler(ModuleType):
    @staticmethod
    def is_compile_supported(device_type: Any) -> Any:
        """What torchvision imports. A job never calls it."""
        return import_module(_COMPILER).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        """Another version of torchvision may import another name: from the compiler itself."""
        if name.startswith("__"):
            raise AttributeError(name)
        _remove(self)
        return getattr(import_module(_COMPILER), name)


@contextlib.contextmanager
def _in_place_of(name: str, stand_in: ModuleType) -> Iterator[None]:
    if name in sys.modules:
        yield
        return
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        _remove(stand_in)


def _remove(stand_in: ModuleType) -> None:
    if sys.modules.get(stand_in.__name__) is stand_in:
        del sys.modules[stand_in.__name__]
