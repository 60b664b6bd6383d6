"""The shapes of results, without a call: torch derives many in Python, which is slow, and for which
it imports sympy, which takes half a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

aten = torch.ops.aten

# Operations on each value by itself.
_BY_VALUE = {
    aten.relu, aten.leaky_relu, aten.silu, aten.gelu, aten.sigmoid, aten.tanh, aten.add, aten.sub,
    aten.rsub, aten.mul, aten.div, aten.neg, aten.minimum, aten.maximum,
    aten.clamp,
}  # fmt: skip
# Operations whose result has the shape and type of their first argument.
_LIKE_FIRST = {aten.layer_norm, aten.softmax, aten.roll, aten.masked_fill}


def clear_result(func: Any, args: Sequence[Any]) -> Tensor | None:
    """The result of a call on tensors without memory, if its shape is clear from theirs; it may be
    one of them."""
    packet = getattr(func, "overloadpacket", None)
    result: Tensor | None = None
    match packet:
        case aten.cat if len(args) == 2:
            result = _concatenated(*args)
        case aten._prelu_kernel if args[0].dtype == args[1].dtype:
            result = args[0]
        case aten.convolution if not args[6]:
            result = _convolved(*args[:2], *args[3:6])
        case aten.conv2d if func._overloadname == "default":
            given = args[3:6]
            result = _convolved(*args[:2], *given, *([1, 1], [0, 0], [1, 1])[len(given) :])
        case aten.eq | aten.ne if not isinstance(args[1], Tensor):
            result = args[0].new_empty(args[0].shape, dtype=torch.bool)
        case aten.linear:
            result = args[0].new_empty((*args[0].shape[:-1], args[1].shape[0]))
        case aten.matmul if args[0].shape[:-2] == args[1].shape[:-2] != ():
            result = args[0].new_empty((*args[0].shape[:-1], args[1].shape[-1]))
        case aten.index if len(args[1]) == 1 and args[1][0].dtype == torch.int64:
            result = args[0].new_empty((*args[1][0].shape, *args[0].shape[1:]))
        case aten.upsample_nearest2d if func._overloadname == "default":
            result = args[0].new_empty((*args[0].shape[:2], *args[1]))
        case aten.pixel_shuffle if args[0].dim() == 4:
            batch, channels, height, width = args[0].shape
            factor = args[1]
            shape = (batch, channels // factor**2, height * factor, width * factor)
            result = args[0].new_empty(shape)
        case _ if packet in _LIKE_FIRST:
            result = args[0]
        case _ if packet in _BY_VALUE:
            result = _repeated([item for item in args if isinstance(item, Tensor)])
    return result


def _repeated(tensors: Sequence[Tensor]) -> Tensor | None:
    """Along some sides, so that all have the same shape, if all are floats of one type: a quotient
    of integers is of another one."""
    first = tensors[0]
    if not first.is_floating_point():
        return None
    if any(other.dtype != first.dtype or other.dim() == 0 for other in tensors):
        return None
    shape = np.broadcast_shapes(*(tuple(one.shape) for one in tensors))
    return first if shape == first.shape else first.new_empty(shape)


def _concatenated(parts: Sequence[Tensor], dimension: int) -> Tensor | None:
    if any(part.dtype != parts[0].dtype or part.dim() != parts[0].dim() for part in parts):
        return None
    shape = list(parts[0].shape)
    shape[dimension] = sum(part.shape[dimension] for part in parts)
    return parts[0].new_empty(shape)


def _convolved(
    source: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    sides = [
        (side + 2 * before - step * (size - 1) - 1) // by + 1
        for side, size, by, before, step in zip(
            source.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
        )
    ]
    return source.new_empty((source.shape[0], weight.shape[0], *sides))
