"""Offsets of FLUX's tiles: on a grid, so that latents of neighbours lie at the same places."""

from __future__ import annotations

from upscaled_models.tiling import overlapping

# Neighbours share this fraction of a side: 64 pixels of 512, as in other tools (2 x 32 of padding).
_SHARED = 8


def tile_side(wanted: int, grid: int) -> int:
    """The largest side on the grid that is no longer than `wanted`; at least one grid step."""
    return max(wanted // grid, 1) * grid


def tile_offsets(length: int, side: int, grid: int) -> list[int]:
    """Offsets of the fewest tiles of one side that cover `length`, evenly spread.

    Neighbours share at least an eighth of a side, and one grid step. All numbers are multiples of
    the grid, or `length` is at most a side.
    """
    shared = max(side // _SHARED // grid, 1) * grid
    if shared >= side:  # tiles of one grid step
        shared = 0
    return [span.start for span in overlapping(length, side, shared, grid)]
