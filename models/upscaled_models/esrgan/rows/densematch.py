"""Finds, in a recorded network, what `denseblock.py` computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from upscaled_models.esrgan.rows.convolution import ADDENDS, PackedConvolution, fits
from upscaled_models.esrgan.rows.denseblock import DenseBlock
from upscaled_models.esrgan.rows.recording import Node

aten = torch.ops.aten

# The slopes below zero of a call that is a PReLU or the like; None for any other call.
Slopes = Callable[[Node], Tensor | float | None]


@dataclass(frozen=True)
class DenseMatch:
    """Calls that are one dense block.

    source: what it reads. convolutions: with the activation behind each, or None. addends: what is
    added to its result, each after a multiplication. inside: its calls but for `result`, which
    gives its result. is_doubled: the source is taken at twice its width and height.
    """

    source: Node
    convolutions: Sequence[tuple[Node, Node | None]]
    addends: Sequence[tuple[Node, float]]
    inside: frozenset[Node]
    result: Node
    is_doubled: bool

    @property
    def inputs(self) -> list[Node]:
        """The source, and what else it reads."""
        return list(dict.fromkeys([self.source, *(node for node, _ in self.addends)]))

    def block(self, dtype: torch.dtype, slopes: Slopes) -> DenseBlock:
        """What computes it, in `dtype`."""
        packed = []
        for node, activation in self.convolutions:
            weight, bias = node.args[1:3]
            below = None if activation is None else slopes(activation)
            packed.append(
                PackedConvolution(
                    weight.value,
                    None if bias is None else bias.value,
                    1.0 if below is None else below,
                    dtype,
                )
            )
        numbers = [self.inputs.index(node) for node, _ in self.addends]
        scales = [scale for _, scale in self.addends]
        return DenseBlock(packed, scales, numbers, self.is_doubled)


def match_dense_blocks(
    calls: Sequence[Node], dtype: torch.dtype, slopes: Slopes
) -> dict[Node, DenseMatch]:
    """The dense blocks among recorded calls, and the convolutions beside them as blocks of one, by
    the call that gives their result.

    dtype: what convolutions compute in. Where there is nothing to be copied together, the network
    keeps torch's convolutions, and with them the bits of the module itself: there are no matches.
    """
    matcher = _Matcher(calls, dtype, slopes)
    matches = matcher.matches
    is_dense = any(len(match.convolutions) > 1 for match in matches.values())
    return matches if is_dense else {}


class _Matcher:
    def __init__(self, calls: Sequence[Node], dtype: torch.dtype, slopes: Slopes) -> None:
        self._dtype = dtype
        self._slopes = slopes
        # What is in `dtype`, because it has passed a convolution.
        self._usable: set[Node] = set()
        for node in calls:
            if _is(node, aten.convolution) or not self._usable.isdisjoint(node.inputs):
                self._usable.add(node)
        self.matches: dict[Node, DenseMatch] = {}
        inside: set[Node] = set()
        for node in calls:
            if node not in inside and self._is_convolution(node):
                match = self._match(node)
                self.matches[match.result] = match
                inside |= match.inside

    def _is_convolution(self, node: Node) -> bool:
        """Whether it is one that a block can have."""
        if not _is(node, aten.convolution):
            return False
        source, weight, bias, stride, padding, dilation, is_transposed, _, groups = node.args
        return (
            source in self._usable
            and weight.is_constant
            and (bias is None or bias.is_constant)
            and all(list(given) == [1, 1] for given in (stride, padding, dilation))
            and not is_transposed
            and groups == 1
            and fits(weight.value, self._dtype)
        )

    def _match(self, first: Node) -> DenseMatch:
        source: Node = first.args[0]
        steps, parts, joins = [(first, self._activation(first))], [source], []
        while True:
            parts.append(steps[-1][1] or steps[-1][0])
            join = next((node for node in parts[-1].users if _joined(node) == parts), None)
            following = None if join is None else _only_user(join)
            if join is None or following is None or not self._is_convolution(following):
                break
            joins.append(join)
            steps.append((following, self._activation(following)))
        if any(not set(part.users).issubset(joins) for part in parts[1:-1]):
            # What is inside is read elsewhere, too: the convolutions are blocks by themselves.
            del steps[1:], joins[:]
        result = steps[-1][1] or steps[-1][0]
        inside = {node for step in steps for node in step if node is not None}.union(joins)
        addends: list[tuple[Node, float]] = []
        while len(addends) < ADDENDS and (total := self._sum(result)) is not None:
            inside |= total.inside
            addends.append((total.addend, total.scale))
            result = total.result
        is_doubled = self._doubles(source) and _only_user(source) is first
        if is_doubled:
            inside.add(source)
            source = source.args[0]
        return DenseMatch(source, steps, addends, frozenset(inside - {result}), result, is_doubled)

    def _activation(self, node: Node) -> Node | None:
        user = _only_user(node)
        return None if user is None or self._slopes(user) is None else user

    def _sum(self, result: Node) -> _Sum | None:
        """The sum that a result goes into, multiplied or not, if it goes nowhere else."""
        inside, scale = {result}, 1.0
        user = _only_user(result)
        if user is not None and _is(user, aten.mul):
            factor = user.args[1]
            if not isinstance(factor, int | float):
                return None
            inside.add(user)
            result, scale = user, float(factor)
            user = _only_user(result)
        if user is None or not _is(user, aten.add) or user.kwargs or len(user.args) > 2:
            return None
        first, second = user.args
        other = second if first is result else first
        if other is result or other not in self._usable:
            return None
        if other.value.shape != result.value.shape:
            return None
        return _Sum(inside, scale, other, user)

    def _doubles(self, node: Node) -> bool:
        """Whether a call takes each pixel four times, which only the kernel for floats can do."""
        if not _is(node, aten.upsample_nearest2d) or self._dtype != torch.float32:
            return False
        before, after = (each.value.shape[2:] for each in (node.args[0], node))
        return node.args[0] in self._usable and list(after) == [2 * side for side in before]


@dataclass(frozen=True)
class _Sum:
    inside: set[Node]
    scale: float
    addend: Node
    result: Node


def _is(node: Node, packet: Any) -> bool:
    return getattr(node.target, "overloadpacket", None) is packet


def _joined(node: Node) -> list[Any] | None:
    """What a call joins along the channels; None for any other call."""
    is_join = _is(node, aten.cat) and list(node.args[1:]) in ([1], [-3])
    return list(node.args[0]) if is_join else None


def _only_user(node: Node) -> Node | None:
    return node.users[0] if len(node.users) == 1 else None
