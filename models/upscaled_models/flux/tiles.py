"""Where tiles lie, and how they become one picture again.

Sides and offsets are multiples of a grid, so that nothing is resampled and latents of neighbours
coincide. Where tiles overlap they fade into each other in floating point, linearly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

# Of a tile's side, what neighbours share: 64 pixels of 512, as others have 2 x 32 of padding.
_SHARED = 8


def tile_side(wanted: int, grid: int) -> int:
    """The largest side that the grid allows."""
    return max(wanted // grid, 1) * grid


def cut(length: int, side: int, grid: int) -> list[int]:
    """Offsets of the fewest tiles of one side that cover `length`, evenly spread.

    Neighbours share about an eighth of a side, at least one grid step; a tile that reaches over
    two others shares with both. All three are multiples of the grid, or `length` is at most a side.
    """
    if length <= side:
        return [0]
    shared = max(side // _SHARED // grid, 1) * grid
    if shared >= side:  # tiles of one grid step
        shared = 0
    count = math.ceil((length - shared) / (side - shared))
    free = (length - side) // grid
    return [index * free // (count - 1) * grid for index in range(count)]


def stitch(parts: Iterable[Tensor], offsets: Sequence[int], dim: int) -> Iterator[Tensor]:
    """Join parts that overlap along a dimension; yields what is finished as soon as it is.

    Where the parts are equal the result is too, to the bit.
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
    return torch.cat(list(stitch(parts, offsets, dim)), dim)


def _faded(tail: Tensor, part: Tensor, dim: int) -> Tensor:
    """`part`, with the end of what came before fading out over its beginning."""
    shared = tail.shape[dim]
    if shared == 0:
        return part
    begin = part.narrow(dim, 0, shared)
    ramp = (torch.arange(shared, device=part.device) + 0.5) / shared
    shape = [1] * part.ndim
    shape[dim] = shared
    # As a difference, so that equal values stay as they are.
    faded = tail + (begin - tail) * ramp.view(shape)
    return torch.cat((faded, part.narrow(dim, shared, part.shape[dim] - shared)), dim)
