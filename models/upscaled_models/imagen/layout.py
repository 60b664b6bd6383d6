"""How a picture is cut into calls, within the limits of the service."""

from __future__ import annotations

import math
from dataclasses import dataclass

from upscaled_imaging.dimensions import Plan
from upscaled_models.tiling import Span, shortest_overlapping
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

FACTORS = (2, 3, 4)
# The service's limits (Vertex AI, Imagen upscaling): pixels of an answer, bytes of a request.
MAX_OUTPUT_PIXELS = 17_000_000
MAX_INPUT_BYTES = 10_000_000
# Up to this factor the resampler enlarges alone: no difference is visible, and a call costs money.
_NEGLIGIBLE = 1.03
# Pixels that neighbouring tiles share. A generative model makes each tile without seeing the other
# one: the blend has to hide where they differ.
_OVERLAP = 64


@dataclass(frozen=True)
class Layout:
    """A picture cut into `rows` x `columns` tiles that overlap. Each is enlarged by `factor`."""

    factor: int
    rows: list[Span]
    columns: list[Span]

    @property
    def calls(self) -> int:
        """How many tiles there are."""
        return len(self.rows) * len(self.columns)


def choose_factor(size: Size, plan: Plan, limit: int) -> int:
    """The least factor, at most `limit`, that reaches the plan's size; 1 if no call is needed,
    because the plan is no larger than the picture."""
    wanted = max(plan.scaled.width / size.width, plan.scaled.height / size.height)
    if wanted <= _NEGLIGIBLE:
        return 1
    return next((one for one in FACTORS if one < limit and one * _NEGLIGIBLE >= wanted), limit)


def lay_out(size: Size, factor: int, *, tile: bool, tile_size: int | None) -> Layout:
    """Cut a picture into the fewest tiles that the service takes. `tile_size` makes them smaller.

    Raises `JobError` (input_too_large) if `tile` is False and one call is not enough.
    """
    limit = MAX_OUTPUT_PIXELS // factor**2
    if not tile and size.width * size.height > limit:
        raise _too_large(size, factor)
    width, height = size.width, size.height
    if tile:
        side = min(math.isqrt(limit), tile_size or limit)
        # A low picture can have wider tiles, and a narrow one higher tiles.
        height = min(height, side)
        width = min(width, tile_size or limit, limit // height)
        height = min(size.height, tile_size or limit, limit // width)
    return Layout(factor, _cut(size.height, height), _cut(size.width, width))


def _cut(length: int, longest: int) -> list[Span]:
    return shortest_overlapping(length, longest, min(_OVERLAP, longest // 4))


def _too_large(size: Size, factor: int) -> JobError:
    pixels = size.width * size.height
    fitting = [one for one in FACTORS if pixels * one**2 <= MAX_OUTPUT_PIXELS]
    calls = lay_out(size, factor, tile=True, tile_size=None).calls
    advice = f"set tile to true for {calls} calls"
    if fitting:
        advice += f", or upscale_factor to x{fitting[-1]}, the largest that fits"
    return JobError(
        ErrorCode.INPUT_TOO_LARGE,
        f"{size.width}x{size.height} at x{factor} would have {pixels * factor**2 / 1e6:.1f} "
        f"megapixels, and one call gives at most {MAX_OUTPUT_PIXELS / 1e6:g}: {advice}",
    )
