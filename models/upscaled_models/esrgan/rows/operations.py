"""What the operations of a row graph compute, each on a band of rows, (B, C, h, W)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from upscaled_models.esrgan.precision import ImpreciseError
from upscaled_models.esrgan.rows import native
from upscaled_models.esrgan.rows.recording import Node, map_nodes

# Given the shape of a result and a tensor of its type: memory where its reader would like it.
Room = Callable[[Sequence[int], Tensor], Tensor]
# What it computes from its inputs; few operations can choose where to put it.
Compute = Callable[[Sequence[Tensor], Room], Tensor]

# Rows and columns of the band that oneDNN lays out a convolution's weights for; it takes others.
_PACKED_FOR = (16, 640)


@dataclass(frozen=True)
class Convolution:
    """A convolution of stride one that pads `columns` zeros at the left and right, and no rows.

    slope: below zero, of a leaky ReLU that follows it; None for none.
    """

    weight: Tensor
    bias: Tensor | None
    columns: int
    dilation: Sequence[int]
    groups: int
    slope: float | None = None

    def followed_by_leaky_relu(self, slope: float) -> Convolution:
        """The convolution with the activation in it."""
        return replace(self, slope=slope)

    def with_outputs(self, order: Tensor) -> Convolution:
        """The convolution with its output channels in another order."""
        return replace(
            self, weight=self.weight[order], bias=None if self.bias is None else self.bias[order]
        )

    def compiled(self, dtype: torch.dtype) -> Compute:
        """The convolution, to be called many times, computing in `dtype`."""
        weight = self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        padding, stride = [0, self.columns], [1, 1]
        dilation, groups, slope = list(self.dilation), self.groups, self.slope
        if weight.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            # Not `conv2d`: it takes other kernels for small inputs, and then a band's result
            # depends on its height by one unit in the last place. It also lays the weights out
            # anew in each call, and cannot apply an activation while its result is in registers.
            kernels = torch.ops.mkldnn
            shape = [1, groups * weight.shape[1], *_PACKED_FOR]
            packed = kernels._reorder_convolution_weight(
                weight.contiguous(), padding, stride, dilation, groups, shape
            )
            activation = ("none", []) if slope is None else ("leaky_relu", [slope])
            return lambda inputs, _: kernels._convolution_pointwise(
                inputs[0].to(dtype),
                packed,
                bias,
                padding,
                stride,
                dilation,
                groups,
                *activation,
                "",
            )

        weight = weight.contiguous(memory_format=torch.channels_last)

        def convolve(inputs: Sequence[Tensor], _: Room) -> Tensor:
            result = functional.conv2d(
                inputs[0].to(dtype), weight, bias, stride, padding, dilation, groups
            )
            return result if slope is None else functional.leaky_relu_(result, slope)

        return convolve


def prelu(slopes: Tensor) -> Compute:
    """A PReLU with one of `slopes` for each channel, of bf16 on a processor."""
    repeated = native.repeated(slopes)

    def compute(inputs: Sequence[Tensor], room: Room) -> Tensor:
        (rows,) = inputs
        result = room(rows.shape, rows)
        native.prelu(rows, repeated, result)
        return result

    return compute


def enlarged_sum(dtype: torch.dtype) -> Compute:
    """A picture in float32, enlarged, plus bf16 channels in the order of `shuffle_order`, shuffled.

    dtype: of the result, float32, or uint8 for pixels as files have them.
    """

    def compute(inputs: Sequence[Tensor], _: Room) -> Tensor:
        squares, source = inputs
        result, finite = native.add_enlarged(squares, source, dtype)
        if not finite:
            raise ImpreciseError
        return result

    return compute


def shuffle(factor: int) -> Compute:
    """Channels to pixels; pixels to channels where `factor` is negative."""
    if factor < 0:
        return lambda inputs, _: functional.pixel_unshuffle(inputs[0], -factor)
    return lambda inputs, _: functional.pixel_shuffle(inputs[0], factor)


def shuffle_ordered(factor: int) -> Compute:
    """Channels to pixels, from channels in the order of `shuffle_order`."""

    def compute(inputs: Sequence[Tensor], _: Room) -> Tensor:
        batch, channels, height, width = inputs[0].shape
        pixels = inputs[0].permute(0, 2, 3, 1)
        rows = pixels.reshape(batch, height, width, factor, channels // factor).transpose(2, 3)
        return rows.reshape(batch, height * factor, width * factor, -1).permute(0, 3, 1, 2)

    return compute


def shuffle_order(channels: int, factor: int) -> Tensor:
    """Channels as they lie in memory after shuffling: by row, then column, then channel.

    Whole runs of pixels are moved then, in a third of the time.
    """
    order = torch.arange(channels).view(-1, factor, factor)
    return order.permute(1, 2, 0).flatten()


def enlargement(factor: int) -> Compute:
    """Each pixel to a square of `factor` times `factor`.

    As `interpolate` does it, but that takes six times as long for three channels, channels last.
    """

    def compute(inputs: Sequence[Tensor], _: Room) -> Tensor:
        batch, channels, height, width = inputs[0].shape
        pixels = inputs[0].permute(0, 2, 3, 1)
        row = torch.cat([pixels] * factor, 3).view(batch, height, 1, factor * width * channels)
        rows = row.expand(-1, -1, factor, -1)
        return rows.reshape(batch, height * factor, width * factor, channels).permute(0, 3, 1, 2)

    return compute


def pixel_wise(
    node: Node,
    *,
    sources: Sequence[Node],
    constants: Mapping[Node, Any],
    pick: Callable[[Any], Tensor] | None,
) -> Compute:
    """The call that was traced: `sources` stand for the inputs, `constants` for themselves.

    pick: takes one of several results.
    """
    positions = {source: index for index, source in enumerate(sources)}

    def template(item: Node) -> Any:
        return _Input(positions[item]) if item in positions else constants[item]

    args, kwargs = map_nodes((node.args, node.kwargs), template)

    def compute(inputs: Sequence[Tensor], _: Room) -> Tensor:
        def fill(item: Any) -> Any:
            return inputs[item.position] if isinstance(item, _Input) else item

        filled, named = fx.node.map_aggregate((args, kwargs), fill)
        result = node.target(*filled, **named)
        return result if pick is None else pick(result)

    return compute


class _Input:
    """Stands for an input in the template of a call."""

    def __init__(self, position: int) -> None:
        self.position = position
