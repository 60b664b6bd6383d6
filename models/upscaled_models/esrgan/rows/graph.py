"""A network as a graph of operations, each of which runs on a band of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from torch import Tensor

from upscaled_models.esrgan.rows.operation import Operation
from upscaled_models.esrgan.rows.stream import GraphStream


class RowGraph:
    """A network's operations in the order they run. The last one gives the result.

    radius: source pixels to each side that a pixel of the result depends on.
    lag: source rows by which the result is behind.
    costs: of the operations, each with the source rows that it is behind; see `Operation.cost`.
    multiple: the heights of a picture and of its bands are multiples of it.
    extra_bytes: memory of the weights beyond the size of the network's own parameters.
    step: bands whose height is a multiple of it are computed at once; rows past a multiple wait.
    column_bytes: memory that a stream holds between bands, per column of the source.
    pixel_bytes: memory that a band takes while it is computed, per pixel of the band.
    largest_bytes: memory of the largest result of one operation, per pixel of the band.
    """

    def __init__(self, source: Operation, operations: Sequence[Operation], multiple: int) -> None:
        self._operations = operations
        result = operations[-1].position
        self.radius = math.ceil(result.radius)
        self.lag = math.ceil(result.source_lag)
        self.costs = [(float(one.position.source_lag), one.cost) for one in operations]
        self.multiple = multiple
        self.step = math.lcm(*(operation.step for operation in operations))
        self.extra_bytes = sum(
            operation.block.extra_bytes for operation in operations if operation.block is not None
        )
        numbered = [source, *operations]
        self.column_bytes = math.ceil(held_bytes(numbered))
        self.pixel_bytes = math.ceil(_peak_bytes(numbered))
        positions = [operation.position for operation in numbered]
        self.largest_bytes = math.ceil(max(one.row_bytes * one.ratio for one in positions))

    def open(self, height: int, band_rows: int, *, as_bytes: bool = False) -> GraphStream:
        """Begin a picture of `height` rows in bands of `band_rows`; the last one may be lower.

        as_bytes: the result may be in uint8, if that saves time.
        """
        *operations, last = self._operations
        if as_bytes and last.compute_bytes is not None:
            last = replace(last, compute=last.compute_bytes)
        return GraphStream([*operations, last], height, band_rows, self.step)

    def whole(self, picture: Tensor) -> Tensor:
        """The result for a whole picture, (B, C, h, W) in float32, at once."""
        height = picture.shape[2]
        result = self.open(height, height + self.lag).feed(picture)
        assert result is not None  # a band that long passes through all operations
        return result


def held_bytes(operations: Sequence[Operation]) -> Fraction:
    """Memory of the rows that wait in front of the operations once all have begun, per column of
    the source."""
    positions = [operation.position for operation in operations]
    held = Fraction(0)
    for operation, position in zip(operations, positions, strict=True):
        waiting = list(zip(position.inputs, position.halos, strict=True))
        if operation.block is not None:
            source = positions[waiting.pop(0)[0]]
            held += operation.block.kept_rows * operation.block.growth * source.row_bytes
        for number, halo in waiting:
            rows = position.lag / position.gain - positions[number].lag + halo
            held += rows * positions[number].row_bytes
    return held


def _peak_bytes(operations: Sequence[Operation]) -> Fraction:
    """The most memory that is in use at once while a band is computed, per pixel of the source."""
    positions = [operation.position for operation in operations]
    last_reader = {
        source: number for number, position in enumerate(positions) for source in position.inputs
    }
    size = [position.row_bytes * position.ratio for position in positions]
    used = peak = size[0]
    for number, (operation, position) in enumerate(zip(operations, positions, strict=True)):
        # An input with a halo is put together from the rows that were kept and the new ones.
        inputs = zip(position.inputs, position.halos, strict=True)
        copies = sum((size[source] for source, halo in inputs if halo), Fraction(0))
        if operation.block is not None:
            copies = size[position.inputs[0]] * operation.block.growth
        used += size[number] if number else 0
        peak = max(peak, used + copies)
        read = set(position.inputs)
        used -= sum(size[source] for source in read if last_reader[source] == number)
    return peak
