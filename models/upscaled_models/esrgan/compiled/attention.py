"""Compiled attention of windows (`attention.c`), in float32.

torch's own is made for long sequences and wide heads. The heads of networks that upscale have 10 to
30 channels and windows of 64 or 256 places.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from upscaled_models.esrgan.compiled import library

# With more keys the scores of some queries leave the second cache.
_MOST_KEYS = 4096

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_ssize_t


class _Heads(ctypes.Structure):
    _fields_ = (
        ("at", _POINTER),
        *((name, _COUNT) for name in ("window", "head", "place")),
    )


class _Bias(ctypes.Structure):
    _fields_ = (
        ("at", _POINTER),
        *((name, _COUNT) for name in ("window", "head", "query")),
    )


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, _Heads) for name in ("queries", "keys", "values", "out")),
        *((name, _Bias) for name in ("fixed", "varied")),
        *((name, _COUNT) for name in ("windows", "heads", "places", "others", "width")),
        ("factor", ctypes.c_float),
    )


class Heads(NamedTuple):
    """queries: (windows, heads, N, d). keys, values: (windows, heads, M, d)."""

    queries: Tensor
    keys: Tensor
    values: Tensor


def takes(given: Heads) -> bool:
    """True if `attend` can compute it."""
    queries, keys, _ = given
    return (
        queries.device.type == "cpu"
        and queries.dtype == torch.float32
        and 0 < keys.shape[2] <= _MOST_KEYS
        and min(queries.shape) > 0
        and library.lanes() > 0
    )


def attend(
    given: Heads, fixed: Tensor | None, varied: Tensor | None, factor: float, *, lanes: int
) -> Tensor:
    """softmax(factor * queries @ keys.mT + fixed + varied) @ values, (windows, heads, N, d).

    fixed: broadcasts to (1, heads, N, M). varied: broadcasts to (windows, heads, N, M). lanes: see
    `library.lanes`.
    """
    queries, keys, values = map(_side_by_side, given)
    windows, heads, places, width = queries.shape
    others = keys.shape[2]
    # As networks want it: with the heads of a place side by side.
    out = torch.empty(windows, places, heads, width).transpose(1, 2)
    if fixed is not None:
        fixed = _side_by_side(fixed.expand(1, heads, places, others))
    if varied is not None:
        varied = _side_by_side(varied.expand(windows, heads, places, others))
    call = _Attention(
        *(_Heads(one.data_ptr(), *one.stride()[:3]) for one in (queries, keys, values, out)),
        *(
            _Bias() if one is None else _Bias(one.data_ptr(), *one.stride()[:3])
            for one in (fixed, varied)
        ),
        windows,
        heads,
        places,
        others,
        width,
        factor,
    )
    if not library.call("attend", ctypes.addressof(call), lanes):
        raise MemoryError("there is no memory for attention")
    return out


def _side_by_side(one: Tensor) -> Tensor:
    return one if one.stride(-1) == 1 else one.contiguous()
