"""A row graph under construction: its operations before they are compiled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from upscaled_models.esrgan.compiled import library
from upscaled_models.esrgan.rows.denseblock import DenseBlock
from upscaled_models.esrgan.rows.graph import RowGraph, held_bytes
from upscaled_models.esrgan.rows.kernels import Compute, Convolution
from upscaled_models.esrgan.rows.operation import Operation, Position
from upscaled_models.esrgan.rows.recording import Node


@dataclass(frozen=True)
class Step:
    """An operation that is not compiled yet: the call after it may become part of it.

    is_float32: True if its result is in float32 because it never passed a convolution.
    """

    position: Position
    work: Compute | Convolution | DenseBlock
    is_float32: bool
    compute_bytes: Compute | None = None


class Steps:
    """The steps in their order. Step 0 is the source, (B, C, h, W) in float32.

    device, dtype: what convolutions compute on, and in.
    has_native_steps: True if the compiled steps, which are for a processor, can be used.
    """

    def __init__(self, source: Node, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        computes = device.type == "cpu" and dtype in (torch.bfloat16, torch.float32)
        self.has_native_steps = computes and library.available()
        row_bytes = Fraction(source.value.shape[1] * torch.float32.itemsize)
        position = Position((), Fraction(1), (), Fraction(1), 0, Fraction(0), row_bytes)
        self._steps = [Step(position, lambda inputs, _: inputs[0], is_float32=True)]
        # Which step gives the value of a node.
        self._numbers = {source: 0}

    def __contains__(self, node: object) -> bool:
        """True if a step gives the value of this node: it depends on the picture."""
        return node in self._numbers

    def __getitem__(self, number: int) -> Step:
        return self._steps[number]

    @property
    def last(self) -> int:
        """The number of the last step."""
        return len(self._steps) - 1

    def number(self, node: Node) -> int:
        """The number of the step that gives the value of a node."""
        return self._numbers[node]

    def give(self, node: Node) -> None:
        """Note that the last step gives the value of this node."""
        self._numbers[node] = self.last

    def are_last_two(self, nodes: Iterable[Node]) -> bool:
        """True if the last two steps give the values of these nodes."""
        return {self._numbers.get(node) for node in nodes} == {self.last - 1, self.last}

    def convolution_before(self, node: Node) -> Convolution | DenseBlock | None:
        """The last step, if it is a convolution whose result this call reads, and no other call."""
        source, work = node.args[0], self._steps[-1].work
        if (
            isinstance(work, Convolution | DenseBlock)
            and isinstance(source, Node)
            and self._numbers.get(source) == self.last
            and len(source.users) == 1
        ):
            return work
        return None

    def replace_last_work(self, work: Convolution | DenseBlock) -> None:
        """Change what the last step computes."""
        self._steps[-1] = replace(self._steps[-1], work=work)

    def remove_last(self, count: int) -> None:
        """Remove steps that another one takes the place of."""
        del self._steps[-count:]

    def append(
        self,
        value: Tensor,
        work: Compute | Convolution | DenseBlock,
        inputs: Sequence[int],
        *,
        lag: int,
        radius: Fraction,
        is_float32: bool,
        gain: Fraction = Fraction(1),
        halos: Sequence[int] | None = None,
        compute_bytes: Compute | None = None,
    ) -> None:
        """Add the step that gives `value`; see `Position` and `Step` for the other arguments.

        halos: none are needed if it is not given.
        """
        ratio = self._steps[inputs[0]].position.ratio * gain
        itemsize = torch.float32.itemsize if is_float32 else self.dtype.itemsize
        row_bytes = value.shape[1] * ratio * itemsize
        around = tuple(halos or [0] * len(inputs))
        position = Position(tuple(inputs), gain, around, ratio, lag, radius, row_bytes)
        self._steps.append(Step(position, work, is_float32, compute_bytes))

    def compiled(self, multiple: int) -> RowGraph:
        """The graph of these steps. multiple: see `RowGraph`.

        A result that is read later than it could be computed waits for its reader, or else what it
        is computed from waits. All steps do the one or the other, whichever holds less memory.
        """
        early = [self._compiled(step) for step in self._steps]
        late = [
            replace(operation, position=position)
            for operation, position in zip(early, self._late(), strict=True)
        ]
        source, *operations = min(early, late, key=held_bytes)
        return RowGraph(source, operations, multiple)

    def _compiled(self, step: Step) -> Operation:
        work = step.work
        compute = work.compiled(self.dtype) if isinstance(work, Convolution) else work
        weights = work.weights if isinstance(work, Convolution | DenseBlock) else 0
        return Operation(step.position, compute, step.compute_bytes, weights)

    def _late(self) -> list[Position]:
        """The positions if each step is as far behind as those that read it allow. A dense block,
        and what it reads, stay where they are: a block plans its rows itself."""
        positions = [step.position for step in self._steps]
        blocks = {
            number for number, step in enumerate(self._steps) if isinstance(step.work, DenseBlock)
        }
        fixed = {0, self.last, *blocks}.union(*(positions[number].inputs for number in blocks))
        lags: dict[int, int] = {}
        for number in range(self.last, 0, -1):
            position = positions[number]
            if number not in fixed:
                position = positions[number] = replace(position, lag=lags[number])
            for given, halo in zip(position.inputs, position.halos, strict=True):
                lag = math.floor(position.lag / position.gain) - halo
                lags[given] = min(lag, lags.get(given, lag))
        return positions


def latest(positions: Sequence[Position]) -> tuple[int, Fraction]:
    """The greatest lag and the greatest radius: those of a result of all of these."""
    return max(one.lag for one in positions), max(one.radius for one in positions)
