"""How a side of a picture is cut into tiles that overlap, and how their results are blended.

Light: the functions that take tensors import torch themselves, because the cloud engine has none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Span:
    """Pixels `start` to `stop` of one side."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many pixels it has."""
        return self.stop - self.start

    def widened(self, margin: int, length: int) -> Span:
        """With `margin` pixels more at each end, within a side of `length`."""
        return Span(max(self.start - margin, 0), min(self.stop + margin, length))


def partition(length: int, longest: int, grid: int) -> list[Span]:
    """The fewest spans of at most `longest` that share no pixel, of nearly equal lengths.

    Inner edges lie at multiples of `grid`, which divides `longest`.
    """
    units = math.ceil(length / grid)
    count = math.ceil(units / (longest // grid))
    edges = [min(units * index // count * grid, length) for index in range(count + 1)]
    return [Span(start, stop) for start, stop in itertools.pairwise(edges)]


def overlapping(length: int, side: int, overlap: int, grid: int = 1) -> list[Span]:
    """The fewest spans of exactly `side`, evenly spread, whose neighbours share at least `overlap`.

    They begin at multiples of `grid`, which divides all three numbers. A `length` of at most `side`
    is one span.
    """
    if length <= side:
        return [Span(0, length)]
    count = math.ceil((length - overlap) / (side - overlap))
    free = (length - side) // grid
    starts = [index * free // (count - 1) * grid for index in range(count)]
    return [Span(start, start + side) for start in starts]


def shortest_overlapping(length: int, longest: int, overlap: int) -> list[Span]:
    """As many spans as `overlapping` gives for `longest`, as short as they can be."""
    count = max(1, math.ceil((length - overlap) / (longest - overlap)))
    side = math.ceil((length + (count - 1) * overlap) / count)
    return overlapping(length, side, overlap)


def blend_margin(side: int, overlap: int, *, exact: bool) -> int:
    """Half of the pixels that are blended between two tiles of `side` which see `overlap` pixels of
    each other: none if the results agree there anyway. A tile has two such neighbours."""
    return 0 if exact else min(overlap, side) // 2


def linear_weights(count: int) -> NDArray[np.float32]:
    """The weights of a tile over `count` pixels that it shares with the tile before. They rise
    evenly, from almost 0 to almost 1; the tile before has the rest."""
    return (np.arange(count, dtype=np.float32) + np.float32(0.5)) / np.float32(count)


def cosine_weights(count: int, device: torch.device) -> Tensor:
    """The same along half a wave, so that no corner shows at either end."""
    import torch

    steps = torch.arange(count, dtype=torch.float32, device=device)
    return 0.5 - 0.5 * torch.cos((steps + 0.5) * (torch.pi / count))


def stitch(parts: Iterable[Tensor], offsets: Sequence[int], dim: int) -> Iterator[Tensor]:
    """Join parts that overlap along a dimension, with linear weights. Yields each piece as soon as
    it is finished. If the parts are equal, so is the result, to the bit.
    """
    tail: Tensor | None = None
    for index, part in enumerate(parts):
        joined = part if tail is None else _faded(tail, part, dim)
        if index + 1 == len(offsets):
            yield joined
            return
        step = offsets[index + 1] - offsets[index]
        yield joined.narrow(dim, 0, step)
        tail = joined.narrow(dim, step, joined.shape[dim] - step)


def join(parts: Iterable[Tensor], offsets: Sequence[int], dim: int) -> Tensor:
    """The same at once."""
    import torch

    return torch.cat(list(stitch(parts, offsets, dim)), dim)


def _faded(tail: Tensor, part: Tensor, dim: int) -> Tensor:
    """`part`, with the end of the part before it fading out over its beginning."""
    import torch

    shared = tail.shape[dim]
    if shared == 0:
        return part
    begin = part.narrow(dim, 0, shared)
    weights = torch.from_numpy(linear_weights(shared)).to(part.device)
    shape = [1] * part.ndim
    shape[dim] = shared
    # As a difference, so that equal values stay as they are.
    faded = tail + (begin - tail) * weights.view(shape)
    return torch.cat((faded, part.narrow(dim, shared, part.shape[dim] - shared)), dim)
