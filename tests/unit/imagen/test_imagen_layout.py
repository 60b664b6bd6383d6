"""How pictures are divided into calls."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled_imaging.dimensions import plan_size
from upscaled_models.imagen.layout import MAX_OUTPUT_PIXELS, choose_factor, lay_out
from upscaled_protocol.configs import ImagenConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

SIDES = st.integers(1, 30_000)


@given(SIDES, SIDES, st.sampled_from([2, 3, 4]), st.none() | st.integers(32, 8192))
def test_tiles_cover_the_picture_overlap_and_fit_into_a_call(
    width: int, height: int, factor: int, tile_size: int | None
) -> None:
    layout = lay_out(Size(width=width, height=height), factor, tile=True, tile_size=tile_size)
    for spans, length in ((layout.columns, width), (layout.rows, height)):
        assert (spans[0].start, spans[-1].stop) == (0, length)
        assert len({span.length for span in spans}) == 1
        assert tile_size is None or spans[0].length <= tile_size
        for one, other in itertools.pairwise(spans):
            assert one.start < other.start < one.stop
        for one, third in zip(spans, spans[2:], strict=False):
            assert one.stop <= third.start
    pixels = layout.columns[0].length * layout.rows[0].length
    assert pixels * factor**2 <= MAX_OUTPUT_PIXELS


@pytest.mark.parametrize(("factor", "side"), [(2, 2061), (3, 1374), (4, 1030)])
def test_the_largest_picture_of_a_factor_takes_one_call(factor: int, side: int) -> None:
    one = lay_out(Size(width=side, height=side), factor, tile=False, tile_size=None)
    assert one.calls == 1
    with pytest.raises(JobError) as refused:
        lay_out(Size(width=side + 1, height=side + 1), factor, tile=False, tile_size=None)
    assert refused.value.code == ErrorCode.INPUT_TOO_LARGE


@pytest.mark.parametrize(
    ("width", "height", "advice"),
    [
        (1900, 1900, "set tile to true for 4 calls, or upscale_factor to x2, the largest"),
        (1300, 1300, "or upscale_factor to x3"),
        (6000, 4000, "for 35 calls"),
    ],
)
def test_a_refusal_names_the_largest_factor_that_fits(width: int, height: int, advice: str) -> None:
    with pytest.raises(JobError, match=advice) as refused:
        lay_out(Size(width=width, height=height), 4, tile=False, tile_size=None)
    assert ("the largest" in refused.value.message) == (width < 6000)


@pytest.mark.parametrize(
    ("target", "limit", "factor"),
    [(50, 4, 1), (102, 4, 1), (150, 4, 2), (205, 4, 2), (290, 4, 3), (400, 4, 4), (900, 4, 4),
     (400, 2, 2)],
)  # fmt: skip
def test_a_target_takes_the_least_factor_that_reaches_it(
    target: int, limit: int, factor: int
) -> None:
    size = Size(width=100, height=80)
    config = ImagenConfig(image_path="a.png", target_width=target)
    plan = plan_size(config, size, factor=4, default_dpi=150)
    assert choose_factor(size, plan, limit) == factor
