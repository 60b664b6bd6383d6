"""From a network's module to a graph of row-local operations, if it consists of such.

The module is recorded in ATen, torch's own small set of operations, so it does not matter how an
architecture is written. Values that depend on the weights alone are computed once, here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from upscaled_models.esrgan.rows import followluma, smoothcolours
from upscaled_models.esrgan.rows.calls import arguments, is_pixel_wise, packet
from upscaled_models.esrgan.rows.densematch import DenseMatch, match_dense_blocks
from upscaled_models.esrgan.rows.fusion import fuse_activation, fuse_enlarged_sum, fuse_order
from upscaled_models.esrgan.rows.graph import RowGraph
from upscaled_models.esrgan.rows.kernels import (
    Compute,
    Convolution,
    Enlargement,
    Shuffle,
    Unshuffle,
    follow_luma,
    pixel_wise,
    prelu,
    smooth_colours,
)
from upscaled_models.esrgan.rows.plaincolour import Following
from upscaled_models.esrgan.rows.recording import Node, record
from upscaled_models.esrgan.rows.steps import Steps, latest

aten = torch.ops.aten

# Layers of networks that look at whole rows or pictures; to trace those would take seconds.
_GLOBAL_LAYERS = (nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.AdaptiveAvgPool2d)


class NotRowLocalError(Exception):
    """Raised when a network cannot be run row by row; it has to be run in tiles then."""


def trace(
    model: nn.Module,
    channels: int,
    multiple: int,
    dtype: torch.dtype,
    call: Callable[[Tensor], Any] | None = None,
) -> RowGraph:
    """Trace a float32 network into a graph whose convolutions compute in `dtype`.

    Values that never pass a convolution stay in float32: a network that adds its answer to its
    enlarged input keeps the input's full precision.
    multiple: the network takes pictures whose sides are multiples of it.
    call: how the network is called with a picture, if not by the picture alone.
    Raises `NotRowLocalError`.
    """
    if any(isinstance(layer, _GLOBAL_LAYERS) for layer in model.modules()):
        raise NotRowLocalError("it has a layer that looks at whole rows or at the whole picture")
    side = multiple * math.ceil(8 / multiple)
    # Sides in a ratio that no network has, so that height and width cannot be confused.
    shape = (1, channels, 3 * side, 6 * side)
    example = torch.empty(shape, device=next(model.parameters()).device)
    calls: list[Node] = []
    try:
        source, calls = record(call or model, example)
        graph = _Tracer(source, example.device, dtype).graph(calls)
    except NotRowLocalError:
        raise
    except Exception as error:  # a network may do anything in its forward
        raise NotRowLocalError(str(error)) from error
    finally:
        for node in calls:
            for given in (node, *node.inputs):
                given.users.clear()  # otherwise they hold each other, and with them the weights
    if multiple % graph.multiple:
        raise NotRowLocalError("it reduces the picture by more than it says")
    return graph


class _Tracer:
    """Adds a step to the graph for each recorded call, in their order."""

    def __init__(self, source: Node, device: torch.device, dtype: torch.dtype) -> None:
        self._steps = Steps(source, device, dtype)
        # Calls with several results. Each result becomes a step of its own.
        self._several: set[Node] = set()
        self._multiple = 1

    def graph(self, calls: Sequence[Node]) -> RowGraph:
        blocks = match_dense_blocks(calls, self._steps.dtype)
        inside = {node for match in blocks.values() for node in match.inside}
        for node in calls:
            if node in inside:
                continue
            if not isinstance(node.value, Tensor):
                self._several.add(node)
                continue
            if node in blocks:
                self._add_block(blocks[node])
            elif node.target is operator.getitem:
                self._add_pixel_wise(node.args[0], node.value, operator.itemgetter(node.args[1]))
            else:
                self._add(node, node.value)
            self._steps.give(node)
        return self._steps.compiled(self._multiple)

    def _add(self, node: Node, value: Tensor) -> None:
        if fuse_activation(self._steps, node) or fuse_enlarged_sum(self._steps, node, value):
            return
        match packet(node):
            case aten.convolution:
                self._add_convolution(node, value)
            case aten._prelu_kernel if self._is_native_prelu(*node.args):
                self._add_prelu(node, value)
            case aten.pixel_shuffle:
                self._add_shuffle(node, value)
            case aten.pixel_unshuffle:
                self._add_unshuffle(node, value)
            case aten.upsample_nearest2d:
                self._add_enlargement(node, value)
            case followluma.apply:
                self._add_follow_luma(node, value)
            case smoothcolours.apply:
                self._add_smooth_colours(node, value)
            case _:
                self._add_pixel_wise(node, value, None)

    def _add_convolution(self, node: Node, value: Tensor) -> None:
        given = arguments(node)
        source, weight_node, bias_node = (given[name] for name in ("input", "weight", "bias"))
        weight: Tensor = weight_node.value
        bias: Tensor | None = None if bias_node is None else bias_node.value
        padding, dilation = given["padding"], given["dilation"]
        reach = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
        same_size = given["stride"] == [1, 1] and [2 * side for side in padding] == reach
        if given["transposed"] or not same_size:
            raise NotRowLocalError("it has a convolution that changes the picture's size")
        if source not in self._steps or weight_node in self._steps:
            raise NotRowLocalError("its weights depend on the picture")
        number = self._steps.number(source)
        before = self._steps[number].position
        self._steps.append(
            value,
            Convolution(weight, bias, padding[1], dilation, given["groups"]),
            [number],
            halos=[padding[0]],
            lag=before.lag + padding[0],
            radius=before.radius + max(padding) / before.ratio,
            is_float32=False,
        )

    def _add_block(self, match: DenseMatch) -> None:
        numbers = [self._steps.number(node) for node in match.inputs]
        source, *others = (self._steps[number].position for number in numbers)
        count, gain = len(match.convolutions), 1 + match.is_doubled
        self._steps.append(
            match.result.value,
            match.block(self._steps.dtype),
            numbers,
            gain=Fraction(gain),
            lag=max(source.lag * gain + count, *(other.lag for other in others), 0),
            radius=max(
                source.radius + count / (gain * source.ratio),
                *(other.radius for other in others),
                Fraction(0),
            ),
            is_float32=False,
        )

    def _is_native_prelu(self, source: Node, slopes: Node) -> bool:
        """True for values in bf16 and slopes that are weights: the compiled PReLU takes those."""
        steps = self._steps
        is_bf16 = source in steps and not steps[steps.number(source)].is_float32
        is_bf16 = is_bf16 and steps.dtype == torch.bfloat16
        return steps.has_native_steps and is_bf16 and slopes not in steps

    def _add_prelu(self, node: Node, value: Tensor) -> None:
        slopes: Tensor = node.args[1].value
        compute = prelu(slopes.to(self._steps.dtype))
        self._add_resize(node, value, Fraction(1), compute)

    def _add_shuffle(self, node: Node, value: Tensor) -> None:
        factor = node.args[1]
        shuffle = Shuffle(factor, is_ordered=fuse_order(self._steps, node))
        self._add_resize(node, value, Fraction(factor), shuffle)

    def _add_unshuffle(self, node: Node, value: Tensor) -> None:
        source, factor = node.args
        step = factor / self._steps[self._steps.number(source)].position.ratio
        self._multiple = math.lcm(self._multiple, math.ceil(step))
        self._add_resize(node, value, Fraction(1, factor), Unshuffle(factor))

    def _add_enlargement(self, node: Node, value: Tensor) -> None:
        before = node.args[0].value.shape
        factor, rest = divmod(value.shape[2], before[2])
        if rest or value.shape[3] != factor * before[3]:
            raise NotRowLocalError("it enlarges by a fraction")
        self._add_resize(node, value, Fraction(factor), Enlargement(factor))

    def _add_follow_luma(self, node: Node, value: Tensor) -> None:
        *given, interpolation, faint, flat, share = node.args
        how = Following(interpolation.value, faint, flat, share)
        numbers = [self._steps.number(one) for one in given]
        source, *others = (self._steps[number].position for number in numbers)
        lag, radius = latest(others)
        scale, halo = how.scale, followluma.RADIUS
        gives_bytes = followluma.gives_bytes(self._steps.device, scale)
        floats, pixels = (follow_luma(how, dtype) for dtype in (torch.float32, torch.uint8))
        self._steps.append(
            value,
            floats,
            numbers,
            gain=Fraction(scale),
            halos=[halo, 0, 0],
            lag=scale * max(source.lag + halo, lag),
            radius=max(source.radius + halo / source.ratio, radius),
            is_float32=True,
            compute_bytes=pixels if gives_bytes else None,
        )

    def _add_smooth_colours(self, node: Node, value: Tensor) -> None:
        picture, noise, colour_noise = node.args
        number, halo = self._steps.number(picture), smoothcolours.HALO
        before = self._steps[number].position
        self._steps.append(
            value,
            smooth_colours(noise, colour_noise),
            [number],
            halos=[halo],
            lag=before.lag + halo,
            radius=before.radius + halo / before.ratio,
            is_float32=True,
        )

    def _add_resize(self, node: Node, value: Tensor, gain: Fraction, compute: Compute) -> None:
        number = self._steps.number(node.args[0])
        before = self._steps[number]
        self._steps.append(
            value,
            compute,
            [number],
            gain=gain,
            lag=math.ceil(before.position.lag * gain),
            # A pixel of a reduced picture stands for a block of them.
            radius=before.position.radius + max(1 / gain - 1, Fraction(0)) / before.position.ratio,
            is_float32=before.is_float32,
        )

    def _add_pixel_wise(
        self, node: Node, value: Tensor, pick: Callable[[Any], Tensor] | None
    ) -> None:
        """pick: takes one of several results."""
        if not is_pixel_wise(node):
            raise NotRowLocalError(f"{node.target} is not row-local")
        sources = [source for source in node.inputs if source in self._steps]
        if not sources or any(source in self._several for source in node.inputs):
            raise NotRowLocalError("it takes apart what was taken apart")
        if len({source.value.shape[2:] for source in sources}) > 1:
            raise NotRowLocalError("it combines rows of different lengths")
        numbers = [self._steps.number(source) for source in sources]
        is_float32 = any(self._steps[number].is_float32 for number in numbers)

        def constant(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value.dim() > 2 and (value.shape[-1] > 1 or value.shape[-2] > 1):
                raise NotRowLocalError("it has weights for each pixel")
            is_rounded = value.is_floating_point() and not is_float32
            return value.detach().to(self._steps.dtype) if is_rounded else value.detach()

        constants = {
            source: constant(source.value) for source in node.inputs if source not in self._steps
        }
        lag, radius = latest([self._steps[number].position for number in numbers])
        compute = pixel_wise(node, sources=sources, constants=constants, pick=pick)
        self._steps.append(value, compute, numbers, lag=lag, radius=radius, is_float32=is_float32)
