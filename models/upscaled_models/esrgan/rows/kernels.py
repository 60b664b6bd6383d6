"""What the operations of a row graph compute on one band of rows, (B, C, h, W)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from upscaled_models.esrgan.compiled import passes
from upscaled_models.esrgan.precision import ImpreciseError
from upscaled_models.esrgan.rows import followluma, smoothcolours
from upscaled_models.esrgan.rows.plaincolour import Following
from upscaled_models.esrgan.rows.recording import Node, map_nodes


@dataclass(frozen=True)
class Band:
    """What an operation may know of the band that it computes, beside its inputs.

    allocate: gives memory for the result, beside the rows that its reader keeps; given the result's
    shape, and a tensor of its type. first: the result's first row, of `height` rows in all.
    """

    allocate: Callable[[Sequence[int], Tensor], Tensor]
    first: int
    height: int


# Computes a result from inputs.
Compute = Callable[[Sequence[Tensor], Band], Tensor]

# oneDNN lays out a convolution's weights for a band of so many rows and columns; they fit all.
_PACKED_FOR = (16, 640)


@dataclass(frozen=True)
class Convolution:
    """A convolution of stride one that pads `columns` zeros at the left and right, and no rows.

    slope: of a leaky ReLU that follows it, below zero; None if none does.
    """

    weight: Tensor
    bias: Tensor | None
    columns: int
    dilation: Sequence[int]
    groups: int
    slope: float | None = None

    @property
    def weights(self) -> int:
        """With how many numbers a pixel of the result is computed."""
        return self.weight.numel()

    def with_outputs(self, order: Tensor) -> Convolution:
        """The convolution with its output channels in another order."""
        return replace(
            self, weight=self.weight[order], bias=None if self.bias is None else self.bias[order]
        )

    def compiled(self, dtype: torch.dtype) -> Compute:
        """The convolution, to be called many times, computing in `dtype`."""
        weight = self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        dilation, groups, slope = list(self.dilation), self.groups, self.slope
        if weight.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            # Not `conv2d`: it chooses other kernels for small inputs, so a band's result depends on
            # its height in the last place. It also lays the weights out again in each call, and
            # cannot apply an activation while its result is in registers.
            kernels = torch.ops.mkldnn
            padding, stride = [0, self.columns], [1, 1]
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
        return PlainConvolution(replace(self, weight=weight, bias=bias))


@dataclass(frozen=True)
class PlainConvolution:
    """A convolution by torch's own kernels, for accelerators. Its weights are in the precision that
    it computes in."""

    convolution: Convolution

    def __call__(self, inputs: Sequence[Tensor], _: Band) -> Tensor:
        """The convolution of one band, which has its halo above and below."""
        return self.padded(inputs[0], 0)

    def padded(self, rows: Tensor, halo: int) -> Tensor:
        """The same with `halo` rows of zeros above and below, which the kernel itself adds."""
        given = self.convolution
        result = functional.conv2d(
            rows.to(given.weight.dtype),
            given.weight,
            given.bias,
            padding=[halo, given.columns],
            dilation=list(given.dilation),
            groups=given.groups,
        )
        return result if given.slope is None else functional.leaky_relu_(result, given.slope)


def prelu(slopes: Tensor) -> Compute:
    """A PReLU with one slope per channel, for bf16 on a processor."""
    repeated = passes.repeated(slopes)

    def compute(inputs: Sequence[Tensor], band: Band) -> Tensor:
        (rows,) = inputs
        result = band.allocate(rows.shape, rows)
        passes.prelu(rows, repeated, result)
        return result

    return compute


def enlarged_sum(dtype: torch.dtype) -> Compute:
    """An enlarged picture in float32, plus shuffled channels in the order of `shuffle_order`.

    dtype: the result's: float32, or uint8 for pixels as files have them.
    """

    def compute(inputs: Sequence[Tensor], _: Band) -> Tensor:
        squares, source = inputs
        result, finite = passes.add_enlarged(squares, source, dtype)
        if not finite:
            raise ImpreciseError
        return result

    return compute


def follow_luma(how: Following, dtype: torch.dtype) -> Compute:
    """Colour that follows luma; see `followluma.rows`, also for the result's `dtype`."""

    def compute(inputs: Sequence[Tensor], band: Band) -> Tensor:
        source, picture, detail = inputs
        first = band.first // how.scale
        result, finite = followluma.rows(
            source,
            picture,
            detail,
            how,
            start=first - followluma.RADIUS,
            first=first,
            height=band.height // how.scale,
            dtype=dtype,
        )
        if not finite:
            raise ImpreciseError
        return result

    return compute


def smooth_colours(noise: float, colour_noise: float) -> Compute:
    """Smooth colours; see `smoothcolours.rows`."""

    def compute(inputs: Sequence[Tensor], band: Band) -> Tensor:
        (picture,) = inputs
        halo = smoothcolours.HALO
        return smoothcolours.rows(
            picture,
            noise=noise,
            colour_noise=colour_noise,
            start=band.first - halo,
            first=band.first,
            last=band.first + picture.shape[2] - 2 * halo,
            height=band.height,
        )

    return compute


@dataclass(frozen=True)
class Shuffle:
    """Channels to pixels. is_ordered: the channels are in the order of `shuffle_order`."""

    factor: int
    is_ordered: bool

    def __call__(self, inputs: Sequence[Tensor], _: Band) -> Tensor:
        """Shuffle one band."""
        if not self.is_ordered:
            return functional.pixel_shuffle(inputs[0], self.factor)
        batch, channels, height, width = inputs[0].shape
        factor = self.factor
        pixels = inputs[0].permute(0, 2, 3, 1)
        rows = pixels.reshape(batch, height, width, factor, channels // factor).transpose(2, 3)
        return rows.reshape(batch, height * factor, width * factor, -1).permute(0, 3, 1, 2)


def shuffle_order(channels: int, factor: int) -> Tensor:
    """Channels as they lie in memory after shuffling: by row, then column, then channel.

    Whole runs of pixels are moved then, in a third of the time.
    """
    order = torch.arange(channels).view(-1, factor, factor)
    return order.permute(1, 2, 0).flatten()


@dataclass(frozen=True)
class Unshuffle:
    """Pixels to channels."""

    factor: int

    def __call__(self, inputs: Sequence[Tensor], _: Band) -> Tensor:
        """Unshuffle one band."""
        return functional.pixel_unshuffle(inputs[0], self.factor)


@dataclass(frozen=True)
class Enlargement:
    """Each pixel to a square of `factor` times `factor`.

    The same as `interpolate`, which takes six times as long for three channels, channels last.
    """

    factor: int

    def __call__(self, inputs: Sequence[Tensor], _: Band) -> Tensor:
        """Enlarge one band."""
        batch, channels, height, width = inputs[0].shape
        factor = self.factor
        pixels = inputs[0].permute(0, 2, 3, 1)
        row = torch.cat([pixels] * factor, 3).view(batch, height, 1, factor * width * channels)
        rows = row.expand(-1, -1, factor, -1)
        return rows.reshape(batch, height * factor, width * factor, channels).permute(0, 3, 1, 2)


def pixel_wise(
    node: Node,
    *,
    sources: Sequence[Node],
    constants: Mapping[Node, Any],
    pick: Callable[[Any], Tensor] | None,
) -> Compute:
    """Repeats the recorded call with the inputs in place of `sources`, and with `constants`.

    pick: takes one of several results.
    """
    positions = {source: index for index, source in enumerate(sources)}

    def template(item: Node) -> Any:
        return _Input(positions[item]) if item in positions else constants[item]

    args, kwargs = map_nodes((node.args, node.kwargs), template)

    def compute(inputs: Sequence[Tensor], _: Band) -> Tensor:
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
