"""One picture on its way through a row graph, band by band.

Each layer keeps the last rows of its input that the next band needs again, so no pixel is computed
twice and bands of any height give the bits of the whole frame. See the README of this folder.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from upscaled_models.esrgan.rows import denseblock
from upscaled_models.esrgan.rows.buffer import RowBuffer
from upscaled_models.esrgan.rows.denseblock import DenseBlock, DenseRows
from upscaled_models.esrgan.rows.kernels import Band, Compute, PlainConvolution
from upscaled_models.esrgan.rows.operation import Operation, Position

_Reader = RowBuffer | DenseRows
# On a processor a band's enlarged rows are computed in steps, none of whose results is larger: they
# stay in the caches, and their memory is used again. RRDB takes a tenth less time for 640x448.
_STEP_BYTES = 12_000_000


class GraphStream:
    """One picture on its way through a graph."""

    def __init__(
        self, operations: Sequence[Operation], height: int, band_rows: int, step: int
    ) -> None:
        self._band_rows = band_rows
        self._step = step
        self._time = 0
        result = operations[-1].position
        self._end = height + math.ceil(result.source_lag)
        self._layers = [_layer(operation, height) for operation in operations]
        readers: list[list[_Reader]] = [[] for _ in range(len(operations) + 1)]
        for layer in self._layers:
            for number, buffer in zip(layer.position.inputs, layer.buffers, strict=True):
                readers[number].append(buffer)
        self._source_readers = readers[0]
        self._result = RowBuffer()
        readers[-1].append(self._result)
        for layer, buffers in zip(self._layers, readers[1:], strict=True):
            layer.readers = buffers
        # The first layer that enlarges, if any does.
        self._enlarging = next(
            (number for number, layer in enumerate(self._layers) if layer.position.ratio > 1),
            len(self._layers),
        )
        # Source rows that it and the layers behind it take at once.
        self._enlarged_rows = band_rows

    def feed(self, rows: Tensor) -> Tensor | None:
        """Take the next band, (B, C, h, W) in float32; give what is ready of the result."""
        for reader in self._source_readers:
            reader.push(rows)
        positions = [layer.position for layer in self._layers[self._enlarging :]]
        if rows.device.type == "cpu" and positions:
            row_bytes = max(position.row_bytes * position.ratio for position in positions)
            most = int(_STEP_BYTES / (row_bytes * rows.shape[3]))
            self._enlarged_rows = max(most - most % self._step, self._step)
        return self.drain()

    def drain(self) -> Tensor | None:
        """After the last band: give the next of the rows that are still on their way."""
        before = self._time - self._time % self._step
        self._time += self._band_rows
        # Which rows are computed together must not depend on the bands: their bits do.
        time = self._time if self._time >= self._end else self._time - self._time % self._step
        for layer in self._layers[: self._enlarging]:
            layer.advance(time)
        for step in [*range(before + self._enlarged_rows, time, self._enlarged_rows), time]:
            for layer in self._layers[self._enlarging :]:
                layer.advance(step)
        start, end = self._result.start, self._result.end
        if start == end:
            return None
        ready = self._result.take(start, end)
        self._result.drop_before(end)
        return ready


class _Layer(ABC):
    """An operation at work on one picture.

    buffers: the rows that wait for it, per input. readers: the buffers that get its own rows.
    """

    buffers: Sequence[_Reader]

    def __init__(self, position: Position, height: int) -> None:
        self.position = position
        # In whole numbers, which are many times faster than fractions.
        self._ratio = position.ratio.as_integer_ratio()
        self._gain = position.gain.as_integer_ratio()
        self._height = height * self._ratio[0] // self._ratio[1]
        self.readers: list[_Reader] = []
        self._done = 0

    def advance(self, time: int) -> None:
        """Compute all rows that can be computed once `time` rows of the source have come in."""
        first = self._done
        last = time * self._ratio[0] // self._ratio[1] - self.position.lag
        last = min(max(last, 0), self._height)
        if first == last:
            return
        output = self._compute(first, last)
        self._done = last
        for reader in self.readers:
            reader.push(output)

    @abstractmethod
    def _compute(self, first: int, last: int) -> Tensor:
        """Rows `first` to `last` of the result."""

    def _allocate(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Memory for rows of the result: beside the rows that a reader keeps, if one keeps some."""
        for reader in self.readers:
            if isinstance(reader, RowBuffer) and reader.margin:
                return reader.reserve(shape, like)
        return torch.empty(
            shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
        )


class _BandLayer(_Layer):
    """An operation that computes a band from bands."""

    def __init__(self, position: Position, height: int, compute: Compute) -> None:
        super().__init__(position, height)
        self._compute_band = compute
        input_height = self._height * self._gain[1] // self._gain[0]
        self.buffers = [RowBuffer(halo, input_height) for halo in position.halos]

    def _compute(self, first: int, last: int) -> Tensor:
        halos = self.position.halos
        # A picture in one band has no halo but zeros. To add them here would copy the band.
        is_whole = first == 0 and last == self._height
        if is_whole and isinstance(self._compute_band, PlainConvolution):
            (buffer,) = self.buffers
            return self._compute_band.padded(_read(buffer, 0, last, 0), halos[0])
        top = first * self._gain[1] // self._gain[0]
        bottom = last * self._gain[1] // self._gain[0]
        inputs = [
            _read(buffer, top - halo, bottom + halo, 2 * halo)
            for buffer, halo in zip(self.buffers, halos, strict=True)
        ]
        return self._compute_band(inputs, Band(self._allocate, first, self._height))


class _BlockLayer(_Layer):
    """A dense block, which keeps the rows of its first input together with its own."""

    def __init__(self, position: Position, height: int, block: DenseBlock) -> None:
        super().__init__(position, height)
        self._block = block
        self._rows = DenseRows(block)
        self.buffers = [self._rows, *(RowBuffer() for _ in position.inputs[1:])]
        self._done_rows: Sequence[int] = [0] * len(block.convolutions)

    def _compute(self, first: int, last: int) -> Tensor:
        others = [_read(buffer, first, last, 0) for buffer in self.buffers[1:]]
        source = self._rows.rows(0).values
        shape = (
            self._rows.batch,
            self._block.convolutions[-1].outputs,
            last - first,
            source.shape[2] << self._block.is_doubled,
        )
        out = self._allocate(shape, source)
        self._done_rows = denseblock.compute(
            self._block,
            self._rows,
            others,
            out,
            self._done_rows,
            first=first,
            last=last,
            height=self._height,
            lag=self.position.lag,
        )
        self._rows.drop_before((last - 1) >> self._block.is_doubled)
        return out

    def _allocate(self, shape: Sequence[int], like: Tensor) -> Tensor:
        # A block writes to memory of any strides, so also into the next block's own rows.
        for reader in self.readers:
            if isinstance(reader, DenseRows):
                return reader.reserve(shape, like)
        return super()._allocate(shape, like)


def _layer(operation: Operation, height: int) -> _Layer:
    if isinstance(operation.compute, DenseBlock):
        return _BlockLayer(operation.position, height, operation.compute)
    return _BandLayer(operation.position, height, operation.compute)


def _read(buffer: _Reader, first: int, last: int, kept: int) -> Tensor:
    """Rows `first` to `last` of a buffer, which then drops all but the `kept` last ones."""
    assert isinstance(buffer, RowBuffer)
    rows = buffer.take(first, last)
    buffer.drop_before(last - kept)
    return rows
