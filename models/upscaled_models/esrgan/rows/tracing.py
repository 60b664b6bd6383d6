"""From a network's module to a graph of row-local operations, if it consists of such.

The module is recorded in ATen, torch's own small set of operations, so that it does not matter how
an architecture is written. What depends on the weights alone is computed once, here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from upscaled_models.esrgan.rows import native
from upscaled_models.esrgan.rows.denseblock import DenseBlock
from upscaled_models.esrgan.rows.densematch import DenseMatch, match_dense_blocks
from upscaled_models.esrgan.rows.graph import Operation, RowGraph
from upscaled_models.esrgan.rows.operations import (
    Compute,
    Convolution,
    Room,
    enlarged_sum,
    enlargement,
    pixel_wise,
    prelu,
    shuffle,
    shuffle_order,
    shuffle_ordered,
)
from upscaled_models.esrgan.rows.recording import Node, record

aten = torch.ops.aten

# Operations that compute a pixel from the same pixel of their inputs.
_PIXEL_WISE = {
    aten.add, aten.sub, aten.mul, aten.div, aten.neg, aten.abs, aten.exp, aten.pow, aten.sqrt,
    aten.rsqrt, aten.reciprocal, aten.maximum, aten.minimum, aten.where, aten.clamp,
    aten.clamp_min, aten.clamp_max, aten.relu, aten.leaky_relu, aten._prelu_kernel, aten.elu,
    aten.gelu, aten.silu, aten.mish, aten.sigmoid, aten.tanh, aten.softplus, aten.hardtanh,
    aten.hardswish, aten.hardsigmoid, aten.native_batch_norm, aten.clone, aten.alias, aten.detach,
    aten.copy,
}  # fmt: skip
# The same across the channels, which have to be given as the dimension.
_ACROSS_CHANNELS = {
    aten.cat, aten.mean, aten.sum, aten.split, aten.split_with_sizes, aten.slice,
    aten.slice_scatter,
}  # fmt: skip
_CHANNELS = (1, -3)
# Layers of networks that look at whole rows or pictures; tracing those would take seconds.
_GLOBAL_LAYERS = (nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.AdaptiveAvgPool2d)


class NotRowLocalError(Exception):
    """Raised when a network cannot be run row by row; it has to be run in tiles then."""


def trace(model: nn.Module, channels: int, multiple: int, dtype: torch.dtype) -> RowGraph:
    """Trace a float32 network into a graph whose convolutions compute in `dtype`.

    What never passes a convolution stays in float32: a network that adds its answer to its
    enlarged input keeps the input's full precision.
    multiple: what the network asks the sides of its input to be multiples of.
    Raises `NotRowLocalError`.
    """
    if any(isinstance(layer, _GLOBAL_LAYERS) for layer in model.modules()):
        raise NotRowLocalError("it has a layer that looks at whole rows or at the whole picture")
    side = multiple * math.ceil(8 / multiple)
    # Sides in a ratio that no network has, so that height and width are told apart.
    shape = (1, channels, 3 * side, 6 * side)
    example = torch.empty(shape, device=next(model.parameters()).device)
    try:
        graph = _Builder(*record(model, example), example.device, dtype).build()
    except NotRowLocalError:
        raise
    except Exception as error:  # a network may do anything in its forward
        raise NotRowLocalError(str(error)) from error
    if multiple % graph.multiple:
        raise NotRowLocalError("it reduces the picture by more than it says")
    return graph


class _Builder:
    def __init__(
        self, source: Node, calls: Sequence[Node], device: torch.device, dtype: torch.dtype
    ) -> None:
        self._calls = calls
        self._dtype = dtype
        # The nodes that depend on the picture, by the number of their operation; the source's is 0.
        self._numbers = {source: 0}
        # Nodes with several results, each of which becomes an operation of its own.
        self._several: set[Node] = set()
        self._operations = [
            Operation(
                lambda inputs, _: inputs[0],
                inputs=(),
                gain=Fraction(1),
                halo=0,
                ratio=Fraction(1),
                lag=0,
                radius=Fraction(0),
                row_bytes=Fraction(source.value.shape[1] * torch.float32.itemsize),
            )
        ]
        self._convolutions: dict[int, Convolution] = {}
        # Shuffles of channels that lie in the order of `shuffle_order`, and enlargements: by how
        # much they enlarge, by the operation's number.
        self._shuffles: dict[int, int] = {}
        self._enlargements: dict[int, int] = {}
        # Whether the compiled steps, which are for bf16, are of use.
        on_processor = device.type == "cpu" and dtype == torch.bfloat16
        self._native = on_processor and native.available()
        # Whether an operation's result is in float32 because it never passed a convolution.
        self._wide = [True]
        self._multiple = 1

    def build(self) -> RowGraph:
        blocks = match_dense_blocks(self._calls, self._dtype, self._slopes)
        inside = {node for match in blocks.values() for node in match.inside}
        for node in self._calls:
            if node in inside:
                continue
            if not isinstance(node.value, Tensor):
                self._several.add(node)
                continue
            if node in blocks:
                self._add_block(blocks[node])
            elif node.target is operator.getitem:
                self._add(node.args[0], node.value, operator.itemgetter(node.args[1]))
            else:
                self._add(node, node.value, None)
            self._numbers[node] = len(self._operations) - 1
        # Now that it is known what each convolution does besides.
        for number, convolution in self._convolutions.items():
            compute = convolution.compiled(self._dtype)
            self._operations[number] = replace(self._operations[number], compute=compute)
        return RowGraph(self._operations[0], self._operations[1:], self._multiple)

    def _add(self, node: Node, value: Tensor, pick: Callable[[Any], Tensor] | None) -> None:
        packet = getattr(node.target, "overloadpacket", None)
        if packet is aten.convolution:
            self._add_convolution(node, value)
        elif self._is_alone_behind_convolution(node) and (slope := self._slope(node)) is not None:
            self._change_last_convolution(lambda last: last.followed_by_leaky_relu(slope))
        elif packet is aten._prelu_kernel and self._is_native_prelu(*node.args):
            self._add_prelu(node, value)
        elif packet is aten.add and (numbers := self._enlarged_sum(node, value)) is not None:
            self._add_enlarged_sum(*numbers, value)
        elif packet is aten.pixel_shuffle:
            self._add_shuffle(node, value)
        elif packet is aten.pixel_unshuffle:
            source, factor = node.args
            step = factor / self._operations[self._numbers[source]].ratio
            self._multiple = math.lcm(self._multiple, math.ceil(step))
            self._add_resize(node, value, Fraction(1, factor), shuffle(-factor))
        elif packet is aten.upsample_nearest2d:
            before = node.args[0].value.shape
            factor, rest = divmod(value.shape[2], before[2])
            if rest or value.shape[3] != factor * before[3]:
                raise NotRowLocalError("it enlarges by a fraction")
            self._enlargements[len(self._operations)] = factor
            self._add_resize(node, value, Fraction(factor), enlargement(factor))
        elif packet in _PIXEL_WISE or (packet in _ACROSS_CHANNELS and _is_across(node)):
            self._add_pixel_wise(node, value, pick)
        else:
            raise NotRowLocalError(f"{node.target} is not row-local")

    def _add_convolution(self, node: Node, value: Tensor) -> None:
        given = _arguments(node)
        source, weight_node, bias_node = (given[name] for name in ("input", "weight", "bias"))
        weight: Tensor = weight_node.value
        bias: Tensor | None = None if bias_node is None else bias_node.value
        padding, dilation = given["padding"], given["dilation"]
        reach = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
        same_size = given["stride"] == [1, 1] and [2 * side for side in padding] == reach
        if given["transposed"] or not same_size:
            raise NotRowLocalError("it has a convolution that changes the picture's size")
        if source not in self._numbers or weight_node in self._numbers:
            raise NotRowLocalError("its weights depend on the picture")
        convolution = Convolution(weight, bias, padding[1], dilation, given["groups"])
        self._convolutions[len(self._operations)] = convolution
        before = self._operations[self._numbers[source]]
        self._append(
            value,
            _not_compiled,
            [self._numbers[source]],
            halo=padding[0],
            lag=before.lag + padding[0],
            radius=before.radius + max(padding) / before.ratio,
            wide=False,
        )

    def _add_block(self, match: DenseMatch) -> None:
        numbers = [self._numbers[node] for node in match.inputs]
        source, *others = (self._operations[number] for number in numbers)
        count, gain = len(match.convolutions), 1 + match.is_doubled
        self._append(
            match.result.value,
            _not_compiled,
            numbers,
            gain=Fraction(gain),
            lag=max(source.lag * gain + count, *(operation.lag for operation in others), 0),
            radius=max(
                source.radius + count / (gain * source.ratio),
                *(operation.radius for operation in others),
                Fraction(0),
            ),
            wide=False,
            block=match.block(self._dtype, self._slopes),
        )

    def _is_alone_behind_convolution(self, node: Node) -> bool:
        """Whether a call reads the last operation, that is a convolution, and nothing else does."""
        source = node.args[0]
        last = len(self._operations) - 1
        return (
            last in self._convolutions
            and isinstance(source, Node)
            and self._numbers.get(source) == last
            and len(source.users) == 1
        )

    def _change_last_convolution(self, change: Callable[[Convolution], Convolution]) -> None:
        last = len(self._operations) - 1
        self._convolutions[last] = change(self._convolutions[last])

    def _slope(self, node: Node) -> float | None:
        """Below zero, of a call that is a leaky ReLU; None for any other call."""
        slopes = self._slopes(node)
        if isinstance(slopes, Tensor):
            slopes = slopes.unique()  # type: ignore[no-untyped-call]
            return float(slopes) if slopes.numel() == 1 else None
        return slopes

    def _slopes(self, node: Node) -> Tensor | float | None:
        """The same, or one slope for each channel."""
        match getattr(node.target, "overloadpacket", None):
            case aten.relu:
                return 0.0
            case aten.leaky_relu:
                return float(_arguments(node).get("negative_slope", 0.01))
            case aten._prelu_kernel if node.args[1].is_constant:
                slopes: Tensor = node.args[1].value.flatten()
                return slopes
        return None

    def _add_shuffle(self, node: Node, value: Tensor) -> None:
        source, factor = node.args
        compute = shuffle(factor)
        if self._is_alone_behind_convolution(node):
            order = shuffle_order(source.value.shape[1], factor)
            self._change_last_convolution(lambda last: last.with_outputs(order))
            compute = shuffle_ordered(factor)
            self._shuffles[len(self._operations)] = factor
        self._add_resize(node, value, Fraction(factor), compute)

    def _is_native_prelu(self, source: Node, slopes: Node) -> bool:
        """Whether the compiled PReLU does it: for what is in bf16, with slopes that are weights."""
        number = self._numbers.get(source)
        fits = number is not None and not self._wide[number] and slopes not in self._numbers
        return self._native and fits

    def _add_prelu(self, node: Node, value: Tensor) -> None:
        source, slopes = node.args
        number = self._numbers[source]
        before = self._operations[number]
        self._append(
            value,
            prelu(slopes.value.to(self._dtype)),
            [number],
            lag=before.lag,
            radius=before.radius,
            wide=False,
        )

    def _enlarged_sum(self, node: Node, value: Tensor) -> tuple[int, int] | None:
        """The numbers of the shuffle and the enlargement that a call adds, where these are the last
        two operations, nothing else reads them, and it can be done in one; else None."""
        last = len(self._operations) - 1
        sources = node.inputs
        numbers = {self._numbers.get(source) for source in sources}
        if numbers != {last - 1, last} or any(len(source.users) > 1 for source in sources):
            return None
        shuffle = last if last in self._shuffles else last - 1
        enlargement = 2 * last - 1 - shuffle
        factor = self._shuffles.get(shuffle)
        picture = self._operations[enlargement].inputs[0]
        fits = (
            self._native
            and factor is not None
            and factor == self._enlargements.get(enlargement)
            and native.can_enlarge(factor, value.shape[1])
            and self._wide[picture]
            and _arguments(node).get("alpha", 1) == 1
        )
        return (shuffle, enlargement) if fits else None

    def _add_enlarged_sum(self, shuffle: int, enlargement: int, value: Tensor) -> None:
        factor = Fraction(self._shuffles.pop(shuffle))
        self._enlargements.pop(enlargement)
        numbers = [self._operations[number].inputs[0] for number in (shuffle, enlargement)]
        del self._operations[-2:], self._wide[-2:]
        before = [self._operations[number] for number in numbers]
        self._append(
            value,
            enlarged_sum(torch.float32),
            numbers,
            gain=factor,
            lag=math.ceil(max(operation.lag for operation in before) * factor),
            radius=max(operation.radius for operation in before),
            wide=True,
            compute_bytes=enlarged_sum(torch.uint8),
        )

    def _add_resize(self, node: Node, value: Tensor, gain: Fraction, compute: Compute) -> None:
        number = self._numbers[node.args[0]]
        before = self._operations[number]
        self._append(
            value,
            compute,
            [number],
            gain=gain,
            lag=math.ceil(before.lag * gain),
            # A pixel of a reduced picture stands for a block of them.
            radius=before.radius + max(1 / gain - 1, Fraction(0)) / before.ratio,
            wide=self._wide[number],
        )

    def _add_pixel_wise(
        self, node: Node, value: Tensor, pick: Callable[[Any], Tensor] | None
    ) -> None:
        sources = [source for source in node.inputs if source in self._numbers]
        if not sources or any(source in self._several for source in node.inputs):
            raise NotRowLocalError("it takes apart what was taken apart")
        numbers = [self._numbers[source] for source in sources]
        if len({source.value.shape[2:] for source in sources}) > 1:
            raise NotRowLocalError("it combines rows of different lengths")
        wide = any(self._wide[number] for number in numbers)

        def constant(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value.dim() > 2 and (value.shape[-1] > 1 or value.shape[-2] > 1):
                raise NotRowLocalError("it has weights for each pixel")
            narrow = value.is_floating_point() and not wide
            return value.detach().to(self._dtype) if narrow else value.detach()

        constants = {
            source: constant(source.value) for source in node.inputs if source not in self._numbers
        }
        compute = pixel_wise(node, sources=sources, constants=constants, pick=pick)
        before = [self._operations[number] for number in numbers]
        self._append(
            value,
            compute,
            numbers,
            lag=max(operation.lag for operation in before),
            radius=max(operation.radius for operation in before),
            wide=wide,
        )

    def _append(
        self,
        value: Tensor,
        compute: Compute,
        inputs: Sequence[int],
        *,
        gain: Fraction = Fraction(1),
        halo: int = 0,
        lag: int,
        radius: Fraction,
        wide: bool,
        compute_bytes: Compute | None = None,
        block: DenseBlock | None = None,
    ) -> None:
        ratio = self._operations[inputs[0]].ratio * gain
        itemsize = torch.float32.itemsize if wide else self._dtype.itemsize
        self._operations.append(
            Operation(
                compute,
                tuple(inputs),
                gain,
                halo,
                ratio,
                lag,
                radius,
                row_bytes=value.shape[1] * ratio * itemsize,
                compute_bytes=compute_bytes,
                block=block,
            )
        )
        self._wide.append(wide)


def _not_compiled(inputs: Sequence[Tensor], room: Room) -> Tensor:
    raise NotImplementedError


def _is_across(node: Node) -> bool:
    """Whether an operation that may work along any dimension works along the channels."""
    dimensions = _arguments(node).get("dim", 0)
    if isinstance(dimensions, int):
        dimensions = [dimensions]
    return bool(dimensions) and all(dimension in _CHANNELS for dimension in dimensions)


def _arguments(node: Node) -> dict[str, Any]:
    """The arguments that a call was given, by name."""
    names = [argument.name for argument in node.target._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}
