"""One operation of a row graph, and how its rows lie to those of the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch

from upscaled_models.esrgan.compiled.convolution import TILE_ROWS
from upscaled_models.esrgan.rows.denseblock import DenseBlock
from upscaled_models.esrgan.rows.kernels import Compute

# To write a value and read it again takes as long as so many multiplications of a convolution, many
# of which run at once. From RRDB on a processor: its last layers have 8 % of the multiplications,
# and take 10 to 12 % of the time.
_VALUE_COST = 200


@dataclass(frozen=True)
class Position:
    """What an operation reads, and how its rows lie to those of the source.

    inputs: indices of the operations before it that it reads; 0 is the source.
    gain: output rows per input row.
    halos: per input, its rows needed above and below; beyond the picture they are zero.
    ratio: output rows per source row. lag: output rows by which it is behind the source.
    radius: source pixels to each side that a pixel of its output depends on.
    row_bytes: memory of one output row, per column of the source.
    """

    inputs: tuple[int, ...]
    gain: Fraction
    halos: tuple[int, ...]
    ratio: Fraction
    lag: int
    radius: Fraction
    row_bytes: Fraction

    @property
    def source_lag(self) -> Fraction:
        """Source rows by which it is behind."""
        return self.lag / self.ratio


@dataclass(frozen=True)
class Operation:
    """One step of a network, run on a band of rows at a time.

    compute: a function of bands; or a dense block, which keeps the rows of its first input itself.
    compute_bytes: computes the result in uint8, as files have it, if the result is a picture.
    weights: with how many numbers a pixel of the result is computed.
    """

    position: Position
    compute: Compute | DenseBlock
    compute_bytes: Compute | None = None
    weights: int = 0

    @property
    def block(self) -> DenseBlock | None:
        """The dense block, if it is one."""
        return self.compute if isinstance(self.compute, DenseBlock) else None

    @property
    def cost(self) -> float:
        """How long a pixel of the source takes, in multiplications."""
        position = self.position
        values = position.row_bytes * position.ratio / torch.float32.itemsize
        return float(position.ratio**2 * self.weights + _VALUE_COST * values)

    @property
    def step(self) -> int:
        """Source rows that whole numbers of output rows are computed from together."""
        return 1 if self.block is None else math.ceil(TILE_ROWS / self.position.ratio)
