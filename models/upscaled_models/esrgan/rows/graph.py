"""A network run from the top row down, each layer keeping the rows that it will need again.

Tiles with overlap compute the overlap twice, and a deep network needs more overlap than anyone can
afford. Rows need none: a stream feeds the network's operations band by band, and every operation
remembers the last rows of its input, as far as it looks back. The result equals the whole frame's
exactly, whatever the band's height; each pixel is computed once, and memory grows with the width
alone.

The idea is line buffering, known from image-processing hardware (J. Hegarty et al., "Darkroom",
SIGGRAPH 2014), here at the grain of bands that fit the processor's caches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from upscaled_models.esrgan.rows import denseblock
from upscaled_models.esrgan.rows.buffer import RowBuffer
from upscaled_models.esrgan.rows.convolution import TILE_ROWS
from upscaled_models.esrgan.rows.denseblock import DenseBlock, DenseRows
from upscaled_models.esrgan.rows.operations import Compute


@dataclass(frozen=True)
class Operation:
    """One step of a network, run on a band of rows at a time.

    compute_bytes: computes the result in uint8, as files have it, where it is a picture.
    block: what computes it instead, with rows of its own in place of the first input's.

    inputs: indices of the operations before it that it reads, 0 being the source.
    gain: output rows an input row.
    halo: input rows needed above and below; beyond the picture they are zero.
    ratio: output rows a source row. lag: output rows that it is behind the source.
    radius: source pixels to each side that a pixel of its output depends on.
    row_bytes: memory of one output row, for each column of the source.
    """

    compute: Compute
    inputs: tuple[int, ...]
    gain: Fraction
    halo: int
    ratio: Fraction
    lag: int
    radius: Fraction
    row_bytes: Fraction
    compute_bytes: Compute | None = None
    block: DenseBlock | None = None

    @property
    def step(self) -> int:
        """Source rows that whole numbers of output rows are computed from together."""
        return math.ceil(TILE_ROWS / self.ratio) if self.block is not None else 1


class RowGraph:
    """A network's operations in the order they run, the last giving the result.

    radius: source pixels to each side that a pixel of the result depends on.
    lag: source rows that the result is behind.
    multiple: a picture's height and its bands' have to be multiples of it.
    extra_bytes: memory of the weights beyond what they take in the network's own numbers.
    step: bands whose height is a multiple of it are computed at once; rows past one wait.
    column_bytes: memory that a stream holds between bands, for each column of the source.
    pixel_bytes: memory that a band takes while it is computed, for each of its pixels.
    """

    def __init__(self, source: Operation, operations: Sequence[Operation], multiple: int) -> None:
        self._operations = operations
        self.radius = math.ceil(operations[-1].radius)
        self.lag = math.ceil(operations[-1].lag / operations[-1].ratio)
        self.multiple = multiple
        self.step = math.lcm(*(operation.step for operation in operations))
        self.extra_bytes = sum(
            operation.block.extra_bytes for operation in operations if operation.block is not None
        )
        numbered = [source, *operations]
        self.column_bytes = math.ceil(_held_bytes(numbered))
        self.pixel_bytes = math.ceil(_peak_bytes(numbered))

    def open(self, height: int, band_rows: int, *, as_bytes: bool = False) -> GraphStream:
        """Begin a picture of `height` rows, in bands of `band_rows`, the last of what is left.

        as_bytes: let the result be in uint8, where that saves time.
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


class GraphStream:
    """One picture on its way through a graph."""

    def __init__(
        self, operations: Sequence[Operation], height: int, band_rows: int, step: int
    ) -> None:
        self._band_rows = band_rows
        self._step = step
        self._time = 0
        self._end = height + math.ceil(operations[-1].lag / operations[-1].ratio)
        self._layers = [
            _Layer(operation, height)
            if operation.block is None
            else _BlockLayer(operation, height, operation.block)
            for operation in operations
        ]
        readers: list[list[_Reader]] = [[] for _ in range(len(operations) + 1)]
        for layer in self._layers:
            for number, buffer in zip(layer.operation.inputs, layer.buffers, strict=True):
                readers[number].append(buffer)
        self._source_readers = readers[0]
        self._result = RowBuffer()
        readers[-1].append(self._result)
        for layer, buffers in zip(self._layers, readers[1:], strict=True):
            layer.readers = buffers

    def feed(self, rows: Tensor) -> Tensor | None:
        """Take the next band, (B, C, h, W) in float32; give what is ready of the result."""
        for reader in self._source_readers:
            reader.push(rows)
        return self.drain()

    def drain(self) -> Tensor | None:
        """After the last band: give the next of the rows that are still on their way."""
        self._time += self._band_rows
        # What is computed together must not depend on the bands, for its bits would, too.
        time = self._time if self._time >= self._end else self._time - self._time % self._step
        for layer in self._layers:
            layer.advance(time)
        start, end = self._result.start, self._result.end
        if start == end:
            return None
        ready = self._result.take(start, end)
        self._result.drop_before(end)
        return ready


class _Layer:
    """An operation at work on one picture, with the rows that wait for it.

    readers: what its own rows are handed to.
    """

    def __init__(self, operation: Operation, height: int) -> None:
        self.operation = operation
        # In whole numbers, which are many times faster than fractions.
        self._ratio = operation.ratio.as_integer_ratio()
        self._gain = operation.gain.as_integer_ratio()
        self._height = height * self._ratio[0] // self._ratio[1]
        input_height = self._height * self._gain[1] // self._gain[0]
        self.buffers: Sequence[_Reader] = [
            RowBuffer(operation.halo, input_height) for _ in operation.inputs
        ]
        self.readers: list[_Reader] = []
        self._done = 0

    def advance(self, time: int) -> None:
        """Compute all that can be once `time` rows of the source have come in."""
        first = self._done
        last = time * self._ratio[0] // self._ratio[1] - self.operation.lag
        last = min(max(last, 0), self._height)
        if first == last:
            return
        output = self._compute(first, last)
        self._done = last
        for reader in self.readers:
            reader.push(output)

    def _compute(self, first: int, last: int) -> Tensor:
        operation = self.operation
        top = first * self._gain[1] // self._gain[0] - operation.halo
        bottom = last * self._gain[1] // self._gain[0] + operation.halo
        inputs = [_taken(buffer, top, bottom, 2 * operation.halo) for buffer in self.buffers]
        return operation.compute(inputs, self._room)

    def _room(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Memory for rows of the result, beside those that a reader keeps and will need too."""
        for reader in self.readers:
            if isinstance(reader, RowBuffer) and reader.margin:
                return reader.room(shape, like)
        return torch.empty(
            shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
        )


class _BlockLayer(_Layer):
    """A dense block at work on one picture."""

    def __init__(self, operation: Operation, height: int, block: DenseBlock) -> None:
        super().__init__(operation, height)
        self._block = block
        self._rows = DenseRows(block)
        self.buffers = [self._rows, *(RowBuffer() for _ in operation.inputs[1:])]
        self._done_rows: Sequence[int] = [0] * len(block.convolutions)

    def _compute(self, first: int, last: int) -> Tensor:
        others = [_taken(buffer, first, last, 0) for buffer in self.buffers[1:]]
        source = self._rows.rows(0).values
        shape = (
            self._rows.batch,
            self._block.convolutions[-1].outputs,
            last - first,
            source.shape[2] << self._block.is_doubled,
        )
        out = self._room(shape, source)
        self._done_rows = denseblock.compute(
            self._block,
            self._rows,
            others,
            out,
            self._done_rows,
            first=first,
            last=last,
            height=self._height,
            lag=self.operation.lag,
        )
        self._rows.drop_before((last - 1) >> self._block.is_doubled)
        return out

    def _room(self, shape: Sequence[int], like: Tensor) -> Tensor:
        # A block takes any strides, and gives the next one its rows where that wants them.
        for reader in self.readers:
            if isinstance(reader, DenseRows):
                return reader.room(shape, like)
        return super()._room(shape, like)


_Reader = RowBuffer | DenseRows


def _taken(buffer: _Reader, first: int, last: int, kept: int) -> Tensor:
    """Rows `first` to `last` of a buffer, which keeps the last ones."""
    assert isinstance(buffer, RowBuffer)
    rows = buffer.take(first, last)
    buffer.drop_before(last - kept)
    return rows


def _held_bytes(operations: Sequence[Operation]) -> Fraction:
    """What waits in front of the operations once all have begun, a source column."""
    held = Fraction(0)
    for operation in operations:
        inputs = operation.inputs
        if operation.block is not None:
            source, inputs = operations[inputs[0]], inputs[1:]
            parts = Fraction(operation.block.channels, operation.block.convolutions[0].inputs)
            held += operation.block.kept_rows * parts * source.row_bytes
        for number in inputs:
            rows = operation.lag / operation.gain - operations[number].lag + operation.halo
            held += rows * operations[number].row_bytes
    return held


def _peak_bytes(operations: Sequence[Operation]) -> Fraction:
    """The most that is alive at once while a band goes through, a source pixel."""
    last_reader = {
        source: number for number, operation in enumerate(operations) for source in operation.inputs
    }
    size = [operation.row_bytes * operation.ratio for operation in operations]
    alive = peak = size[0]
    for number, operation in enumerate(operations):
        # A convolution's input is put together from what was kept and what is new.
        copies = sum((size[source] for source in operation.inputs if operation.halo), Fraction(0))
        if operation.block is not None:
            copies = size[operation.inputs[0]] * Fraction(
                operation.block.channels, operation.block.convolutions[0].inputs
            )
        alive += size[number] if number else 0
        peak = max(peak, alive + copies)
        read = set(operation.inputs)
        alive -= sum(size[source] for source in read if last_reader[source] == number)
    return peak
