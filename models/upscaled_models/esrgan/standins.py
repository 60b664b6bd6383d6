"""Stand-ins for data that training programs save beside weights: dates, paths, settings.

`torch.load` refuses a pickle if it names any type that torch does not know, although for example a
learning rate in a NumPy scalar runs no code. Here each such name stands for an empty object, so
that no code of NumPy or of another package runs.
"""

from __future__ import annotations

from typing import Any

from torch import serialization


class Ignored:
    """A value that an upscaling network does not need."""

    def __new__(cls, *_: object, **__: object) -> Ignored:
        """Accept any arguments."""
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Drop the state."""


class _AsDict:
    def __new__(cls, *_: object) -> Any:
        """Give a plain dict, which the pickle then fills."""
        return {}


class _AsList:
    def __new__(cls, *_: object) -> Any:
        """Give a plain list, which the pickle then fills."""
        return []


_IGNORED = (
    *(
        f"{core}.multiarray.{name}"
        for core in ("numpy.core", "numpy._core")
        for name in ("scalar", "_reconstruct")
    ),
    *(
        f"numpy.{name}"
        for name in ("dtype", "ndarray", "float64", "float32", "int64", "int32", "bool_")
    ),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(
        f"pathlib{module}.{name}"
        for module in ("", "._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
    *(
        f"{builtins}.{name}"
        for builtins in ("builtins", "__builtin__")
        for name in ("bool", "dict", "float", "int", "list", "str", "tuple")
    ),
    "argparse.Namespace",
    "types.SimpleNamespace",
    "decimal.Decimal",
    "fractions.Fraction",
    "uuid.UUID",
    "torch.torch_version.TorchVersion",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
)
_DICTS = (
    "collections.defaultdict",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_LISTS = ("collections.deque",)


def allow_standins() -> None:
    """Let `torch.load` use the stand-ins for these names."""
    serialization.add_safe_globals(
        [
            *((Ignored, name) for name in _IGNORED),
            *((_AsDict, name) for name in _DICTS),
            *((_AsList, name) for name in _LISTS),
        ]
    )
