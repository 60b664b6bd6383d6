"""What a recorded call does: its operation of ATen, its arguments, and if it is row-local."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from upscaled_models.esrgan.rows.recording import Node

aten = torch.ops.aten

# Operations that compute a pixel from the same pixel of their inputs.
_PIXEL_WISE = {
    aten.add, aten.sub, aten.rsub, aten.mul, aten.div, aten.neg, aten.abs, aten.exp, aten.pow,
    aten.sqrt, aten.rsqrt, aten.reciprocal, aten.maximum, aten.minimum, aten.where, aten.clamp,
    aten.clamp_min, aten.clamp_max, aten.relu, aten.leaky_relu, aten._prelu_kernel, aten.elu,
    aten.gelu, aten.silu, aten.mish, aten.sigmoid, aten.tanh, aten.softplus, aten.hardtanh,
    aten.hardswish, aten.hardsigmoid, aten.native_batch_norm, aten.clone, aten.alias, aten.detach,
    aten.copy,
}  # fmt: skip
# Operations that do so if the dimension they work along is the channels.
_ALONG_A_DIMENSION = {
    aten.cat, aten.mean, aten.sum, aten.split, aten.split_with_sizes, aten.slice,
    aten.slice_scatter,
}  # fmt: skip
_CHANNELS = (1, -3)


def packet(node: Node) -> Any:
    """The operation of ATen that a node calls, whatever its overload; None if it calls none."""
    return getattr(node.target, "overloadpacket", None)


def arguments(node: Node) -> dict[str, Any]:
    """The arguments of a call, by name."""
    names = [argument.name for argument in node.target._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def is_pixel_wise(node: Node) -> bool:
    """True if a call computes each pixel from the same pixel of its inputs, across channels or
    not."""
    if packet(node) in _PIXEL_WISE:
        return True
    if packet(node) not in _ALONG_A_DIMENSION:
        return False
    dimensions = arguments(node).get("dim", 0)
    if isinstance(dimensions, int):
        dimensions = [dimensions]
    return bool(dimensions) and all(dimension in _CHANNELS for dimension in dimensions)


def negative_slopes(node: Node) -> Tensor | float | None:
    """What a ReLU, leaky ReLU or PReLU multiplies values below zero by: one number, or one per
    channel. None for any other call."""
    match packet(node):
        case aten.relu:
            return 0.0
        case aten.leaky_relu:
            return float(arguments(node).get("negative_slope", 0.01))
        case aten._prelu_kernel if node.args[1].is_constant:
            slopes: Tensor = node.args[1].value.flatten()
            return slopes
    return None


def negative_slope(node: Node) -> float | None:
    """The same if it is one number for all channels; None otherwise."""
    slopes = negative_slopes(node)
    if isinstance(slopes, Tensor):
        slopes = slopes.unique()  # type: ignore[no-untyped-call]
        return float(slopes) if slopes.numel() == 1 else None
    return slopes


def joined_parts(node: Node) -> list[Any] | None:
    """What a call concatenates along the channels; None for any other call."""
    is_join = packet(node) is aten.cat and list(node.args[1:]) in ([1], [-3])
    return list(node.args[0]) if is_join else None


def only_user(node: Node) -> Node | None:
    """The call that reads a node's value, if exactly one does."""
    return node.users[0] if len(node.users) == 1 else None
