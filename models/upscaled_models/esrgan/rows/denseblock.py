"""Dense blocks of a row graph, in place: each convolution reads all results before it.

All channels of a block lie in one band of rows, one part behind the other. Each convolution reads
the parts before its own and writes its part behind them, so nothing is concatenated. The last rows
of all parts, which the next band needs, are kept together. A single convolution is a block of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from upscaled_models.esrgan.compiled.convolution import (
    TILE_ROWS,
    Addend,
    Convolved,
    PackedConvolution,
    Rows,
    convolve,
)


@dataclass(frozen=True)
class DenseBlock:
    """Convolutions of 3x3 pixels. Each one but the last appends its result to the source.

    addends: the operation's inputs that are added to the last result, by number; 0 is the source.
    scales: one per addend; the result is multiplied by it before the addend is added.
    is_doubled: the source is read at twice its width and height, each pixel four times. There is
    only one convolution then.
    """

    convolutions: Sequence[PackedConvolution]
    scales: Sequence[float]
    addends: Sequence[int]
    is_doubled: bool = False

    def with_outputs(self, order: Tensor) -> DenseBlock:
        """The block with the channels of its result in another order. It has no addends."""
        *others, last = self.convolutions
        return replace(self, convolutions=[*others, last.with_outputs(order)])

    @property
    def channels(self) -> int:
        """Channels of the source and all parts."""
        return self.convolutions[-1].inputs

    @property
    def extra_bytes(self) -> int:
        """Memory of the weights beyond the size of the network's own parameters."""
        return sum(convolution.extra_bytes for convolution in self.convolutions)

    @property
    def weights(self) -> int:
        """With how many numbers a pixel of the result is computed."""
        return sum(9 * one.inputs * one.outputs for one in self.convolutions)

    @property
    def growth(self) -> Fraction:
        """Channels of the source and all parts, per channel of the source."""
        return Fraction(self.channels, self.convolutions[0].inputs)

    @property
    def kept_rows(self) -> int:
        """Rows of all parts that are needed again."""
        return len(self.convolutions) + 1


class DenseRows:
    """A window on a block's source and on the parts that were computed from it.

    A `RowBuffer` for a block: `push`, `reserve`, `start` and `end` are about rows of the source.
    """

    def __init__(self, block: DenseBlock) -> None:
        self._block = block
        self.start = self.end = 0
        # (B, C, h, W + 2), all parts, between two columns of zeros. Rows beyond `end`, or not
        # computed yet, hold arbitrary values.
        self._held: Tensor | None = None
        self._reserved: Tensor | None = None

    def push(self, rows: Tensor) -> None:
        """Append the next rows of the source, possibly none."""
        if not rows.shape[2]:
            return
        if rows is not self._reserved:
            self.reserve(rows.shape, rows).copy_(rows)
        self._reserved = None
        self.end += rows.shape[2]

    def reserve(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Memory to write the next rows of the source to before they are pushed."""
        batch, channels, count, width = shape
        held = self.end - self.start
        parts = like.new_empty((batch, held + count, width + 2, self._block.channels))
        parts = parts.permute(0, 3, 1, 2)
        if self._held is not None:
            parts[:, :, :held] = self._held
        for column in (0, -1):
            parts[:, :, held:, column] = 0
        self._held = parts
        self._reserved = parts[:, :channels, held:, 1:-1]
        return self._reserved

    @property
    def batch(self) -> int:
        """Pictures."""
        assert self._held is not None
        return self._held.shape[0]

    def rows(self, picture: int) -> Rows:
        """All parts of one picture of the batch."""
        assert self._held is not None
        return Rows(self._held[picture, :, :, 1:-1], self.start, has_margin=True)

    def part(self, picture: int, first: int, count: int) -> Rows:
        """`count` of the channels, from `first` on."""
        every = self.rows(picture)
        return every._replace(values=every.values.narrow(0, first, count))

    def drop_before(self, row: int) -> None:
        """Forget the rows above `row`. The others are copied, so that the whole band is freed."""
        if row <= self.start or self._held is None:
            return
        rest = self._held[:, :, row - self.start : self.end - self.start]
        self._held = rest.clone(memory_format=torch.channels_last)
        self.start = row


def compute(
    block: DenseBlock,
    source: DenseRows,
    others: Sequence[Tensor],
    out: Tensor,
    done: Sequence[int],
    *,
    first: int,
    last: int,
    height: int,
    lag: int,
) -> list[int]:
    """Compute rows `first` to `last` of the result, `out`.

    others: the operation's other inputs, from row `first` on. done: how many rows of each part were
    computed before. lag: the result's; the rows of Winograd tiles are aligned to it. Returns how
    many rows of each part are computed now.
    """
    steps = len(block.convolutions)
    ends = [min(last + steps - 1 - number, height) for number in range(steps)]
    for picture in range(len(out)):
        until, parts = source.end << block.is_doubled, block.convolutions[0].inputs
        several = []
        for number, convolution in enumerate(block.convolutions):
            begin, end = done[number], ends[number]
            is_last = number == steps - 1
            if begin < end:
                several.append(
                    Convolved(
                        convolution,
                        source.part(picture, 0, parts),
                        Rows(out[picture], first)
                        if is_last
                        else source.part(picture, parts, convolution.outputs),
                        until=until,
                        first=begin,
                        last=end,
                        grid=begin - (begin + lag - (steps - 1 - number)) % TILE_ROWS,
                        addends=_addends(block, source, others, picture, first) if is_last else (),
                        is_doubled=block.is_doubled,
                    )
                )
            until = end
            parts += convolution.outputs
        convolve(several)
    return ends


def _addends(
    block: DenseBlock, source: DenseRows, others: Sequence[Tensor], picture: int, first: int
) -> list[Addend]:
    return [
        Addend(
            Rows(others[number - 1][picture], first) if number else source.rows(picture),
            scale,
        )
        for number, scale in zip(block.addends, block.scales, strict=True)
    ]
