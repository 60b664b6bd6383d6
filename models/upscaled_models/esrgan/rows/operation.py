"""One operation of a row graph, and how its rows lie to those of the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from upscaled_models.esrgan.rows.convolution import TILE_ROWS
from upscaled_models.esrgan.rows.denseblock import DenseBlock
from upscaled_models.esrgan.rows.kernels import Compute


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


@dataclass(frozen=True)
class Operation:
    """One step of a network, run on a band of rows at a time.

    compute: a function of bands; or a dense block, which keeps the rows of its first input itself.
    compute_bytes: computes the result in uint8, as files have it, if the result is a picture.
    """

    position: Position
    compute: Compute | DenseBlock
    compute_bytes: Compute | None = None

    @property
    def block(self) -> DenseBlock | None:
        """The dense block, if it is one."""
        return self.compute if isinstance(self.compute, DenseBlock) else None

    @property
    def step(self) -> int:
        """Source rows that whole numbers of output rows are computed from together."""
        return 1 if self.block is None else math.ceil(TILE_ROWS / self.position.ratio)
