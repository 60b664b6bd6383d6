"""The library that is compiled from this folder's C.

It exists if there was GCC at installation. Otherwise torch computes the same, in several
times as long.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from upscaled_models.esrgan.compiled import LIBRARY

_POINTER, _COUNT, _INT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int
_ARGUMENTS: dict[str, Sequence[type]] = {
    "prelu": (_POINTER, _POINTER, _COUNT, _POINTER, _COUNT, _INT),
    "to_bytes": (_POINTER, _POINTER, _COUNT, _INT),
    "add_enlarged": (_POINTER, _INT, *[_POINTER] * 3, *[_COUNT] * 4, _INT),
    "pack_float": (_POINTER, _COUNT, _COUNT, _POINTER, _INT),
    "convolve_float": (_POINTER, _INT, _INT),
    "convolve_bf16": (_POINTER, _INT, _INT),
    "convolve_bf16_plain": (_POINTER, _INT, _INT),
    "attend": (_POINTER, _INT, _INT),
    "transpose": (*[_POINTER] * 3, *[_COUNT] * 3, _POINTER, _INT),
    "fastest_lanes": (),
    "follow_luma": (_POINTER, _INT),
    "smooth_colours": (_POINTER, _INT),
}


def available() -> bool:
    """True if the library was compiled. `call` needs it."""
    return loaded() is not None


def lanes() -> int:
    """The most floats per vector of this processor that there are compiled functions for; 0 if
    there are none."""
    return int(loaded().fastest_lanes()) if available() else 0


def call(name: str, *arguments: Tensor | int | None) -> int:
    """Call a compiled function. The number of threads is added as the last argument."""
    plain = [item.data_ptr() if isinstance(item, Tensor) else item for item in arguments]
    result: int = getattr(loaded(), name)(*plain, torch.get_num_threads())
    return result


@cache
def loaded() -> Any:
    """The compiled library, or None."""
    try:
        # Its OpenMP functions come from the library that torch has loaded.
        library = ctypes.CDLL(str(LIBRARY))
        for name, arguments in _ARGUMENTS.items():
            getattr(library, name).argtypes = arguments
    except (OSError, AttributeError):  # not compiled, or from older sources
        return None
    return library
