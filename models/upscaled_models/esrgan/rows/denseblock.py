"""Dense blocks of a row graph, in place: convolutions each of which reads all results before it.

All channels of a block lie in one band of rows, one part behind the other, and each convolution
reads the parts before its own. So nothing is copied together, and the last rows of all parts, which
the next band needs, are kept at once. A convolution alone is a block of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from upscaled_models.esrgan.rows.convolution import (
    READABLE_PIXELS,
    TILE_ROWS,
    Addend,
    PackedConvolution,
    Rows,
)


@dataclass(frozen=True)
class DenseBlock:
    """Convolutions of 3x3 pixels, all but the last of which append their result to the source.

    scales: one for each addend, of what it is added to. addends: for each of them the number of the
    operation's input; 0 is the source itself. is_doubled: the source is taken at twice its width
    and height, each pixel four times; there is one convolution then.
    """

    convolutions: Sequence[PackedConvolution]
    scales: Sequence[float]
    addends: Sequence[int]
    is_doubled: bool = False

    @property
    def channels(self) -> int:
        """Of the source and all parts."""
        return self.convolutions[-1].inputs

    @property
    def extra_bytes(self) -> int:
        """Memory of the weights beyond what they take in the network's own numbers."""
        return sum(convolution.extra_bytes for convolution in self.convolutions)

    @property
    def kept_rows(self) -> int:
        """Rows of all parts that are needed again."""
        return len(self.convolutions) + 1


class DenseRows:
    """A window on a block's source and the parts that were computed from it.

    Takes the place of a `RowBuffer`: `push`, `room`, `start` and `end` are those of the source.
    """

    def __init__(self, block: DenseBlock) -> None:
        self._block = block
        self.start = self.end = 0
        # (B, C, h, W), all parts; what is beyond `end`, or not computed yet, is anything.
        self._held: Tensor | None = None
        self._room: Tensor | None = None

    def push(self, rows: Tensor) -> None:
        """Append the next rows of the source, possibly none."""
        if not rows.shape[2]:
            return
        if rows is not self._room:
            self.room(rows.shape, rows).copy_(rows)
        self._room = None
        self.end += rows.shape[2]

    def room(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Where to write the next rows of the source before they are pushed."""
        batch, channels, count, width = shape
        held = self.end - self.start
        # A pixel of zeros is before each row, and thus also behind the one before it.
        pixels = (held + count) * (width + 1)
        every = self._block.channels
        whole = like.new_empty((batch, pixels + READABLE_PIXELS, every))
        rows = whole[:, :pixels].view(batch, held + count, width + 1, every)
        rows[:, :, 0] = 0
        whole[:, pixels] = 0
        parts = rows[:, :, 1:].permute(0, 3, 1, 2)
        if self._held is not None:
            parts[:, :, :held] = self._held
        self._held = parts
        self._room = parts[:, :channels, held:]
        return self._room

    @property
    def batch(self) -> int:
        """Pictures."""
        assert self._held is not None
        return self._held.shape[0]

    def rows(self, picture: int) -> Rows:
        """All parts of one picture of the batch."""
        assert self._held is not None
        return Rows(self._held[picture], self.start)

    def part(self, picture: int, first: int, count: int) -> Rows:
        """`count` of the channels, from `first` on."""
        values, start = self.rows(picture)
        return Rows(values.narrow(0, first, count), start)

    def drop_before(self, row: int) -> None:
        """Forget the rows above `row`; the others are copied, to let go of the whole band."""
        if row <= self.start or self._held is None:
            return
        rest = self._held[:, :, row - self.start : self.end - self.start]
        self._held = rest.contiguous(memory_format=torch.channels_last)
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

    others: the operation's other inputs, from row `first` on. done: rows of each part that were
    computed before. lag: of the result; it says where the rows of tiles begin. Returns the rows of
    each part that are computed now.
    """
    steps = len(block.convolutions)
    ends = [min(last + steps - 1 - number, height) for number in range(steps)]
    for picture in range(len(out)):
        until, parts = source.end << block.is_doubled, block.convolutions[0].inputs
        for number, convolution in enumerate(block.convolutions):
            begin, end = done[number], ends[number]
            is_last = number == steps - 1
            if begin < end:
                convolution.run(
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
            until = end
            parts += convolution.outputs
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
