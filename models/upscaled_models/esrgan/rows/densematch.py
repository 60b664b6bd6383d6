"""Finds the dense blocks in a recorded network: the calls that `denseblock.py` computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from upscaled_models.esrgan.compiled.convolution import ADDENDS, PackedConvolution, fits
from upscaled_models.esrgan.rows.calls import joined_parts, negative_slopes, only_user, packet
from upscaled_models.esrgan.rows.denseblock import DenseBlock
from upscaled_models.esrgan.rows.recording import Node

aten = torch.ops.aten


@dataclass(frozen=True)
class DenseMatch:
    """Calls that are one dense block.

    source: what the block reads. convolutions: each with the activation behind it, or None.
    addends: what is added to the result, each with the number that the result is multiplied by
    before. result: the call that gives the block's result. inside: the block's other calls.
    is_doubled: the source is read at twice its width and height.
    """

    source: Node
    convolutions: Sequence[tuple[Node, Node | None]]
    addends: Sequence[tuple[Node, float]]
    inside: frozenset[Node]
    result: Node
    is_doubled: bool

    @property
    def inputs(self) -> list[Node]:
        """The source, and the other nodes that it reads."""
        return list(dict.fromkeys([self.source, *(node for node, _ in self.addends)]))

    def block(self, dtype: torch.dtype) -> DenseBlock:
        """The block, computing in `dtype`."""
        packed = []
        for node, activation in self.convolutions:
            weight, bias = node.args[1:3]
            below = None if activation is None else negative_slopes(activation)
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


def match_dense_blocks(calls: Sequence[Node], dtype: torch.dtype) -> dict[Node, DenseMatch]:
    """The dense blocks among recorded calls, by the call that gives their result. Convolutions
    outside of dense blocks are blocks of one.

    dtype: what convolutions compute in.
    """
    return _Matcher(calls, dtype).matches


class _Matcher:
    def __init__(self, calls: Sequence[Node], dtype: torch.dtype) -> None:
        self._dtype = dtype
        # Values in `dtype`: they have passed a convolution.
        self._usable: set[Node] = set()
        for node in calls:
            if packet(node) is aten.convolution or not self._usable.isdisjoint(node.inputs):
                self._usable.add(node)
        self.matches: dict[Node, DenseMatch] = {}
        inside: set[Node] = set()
        for node in calls:
            if node not in inside and self._is_convolution(node):
                match = self._match(node)
                self.matches[match.result] = match
                inside |= match.inside

    def _is_convolution(self, node: Node) -> bool:
        """True for a convolution that a block can have."""
        if packet(node) is not aten.convolution:
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
            join = next((node for node in parts[-1].users if joined_parts(node) == parts), None)
            following = None if join is None else only_user(join)
            if join is None or following is None or not self._is_convolution(following):
                break
            joins.append(join)
            steps.append((following, self._activation(following)))
        if any(not set(part.users).issubset(joins) for part in parts[1:-1]):
            # Another call reads one of the parts too: only the first convolution is taken.
            del steps[1:], joins[:]
        result = steps[-1][1] or steps[-1][0]
        inside = {node for step in steps for node in step if node is not None}.union(joins)
        addends: list[tuple[Node, float]] = []
        while len(addends) < ADDENDS and (total := self._sum(result)) is not None:
            inside |= total.inside
            addends.append((total.addend, total.scale))
            result = total.result
        is_doubled = self._doubles(source) and only_user(source) is first
        if is_doubled:
            inside.add(source)
            source = source.args[0]
        return DenseMatch(source, steps, addends, frozenset(inside - {result}), result, is_doubled)

    def _activation(self, node: Node) -> Node | None:
        user = only_user(node)
        return None if user is None or negative_slopes(user) is None else user

    def _sum(self, result: Node) -> _Sum | None:
        """The sum that a result is part of, multiplied or not, if no other call reads it."""
        inside, scale = {result}, 1.0
        user = only_user(result)
        if user is not None and packet(user) is aten.mul:
            factor = user.args[1]
            if not isinstance(factor, int | float):
                return None
            inside.add(user)
            result, scale = user, float(factor)
            user = only_user(result)
        if user is None or packet(user) is not aten.add or user.kwargs or len(user.args) > 2:
            return None
        first, second = user.args
        other = second if first is result else first
        if other is result or other not in self._usable:
            return None
        if other.value.shape != result.value.shape:
            return None
        return _Sum(inside, scale, other, user)

    def _doubles(self, node: Node) -> bool:
        """True if a call doubles width and height."""
        if packet(node) is not aten.upsample_nearest2d:
            return False
        before, after = (each.value.shape[2:] for each in (node.args[0], node))
        return node.args[0] in self._usable and list(after) == [2 * side for side in before]


@dataclass(frozen=True)
class _Sum:
    inside: set[Node]
    scale: float
    addend: Node
    result: Node
