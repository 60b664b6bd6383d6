"""The size plan keeps its rules for every input, target and crop."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from upscaled_imaging.dimensions import Plan, plan_size
from upscaled_protocol.choices import Crop
from upscaled_protocol.configs import ImageConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

sides = st.integers(20, 20_000)
sizes = st.builds(Size, width=sides, height=sides)
factors = st.floats(1, 16)
dpis = st.integers(1, 2400)
inches = st.floats(0.01, 200)
anchors = st.sampled_from(get_args(Crop))


def plan(source: Size, *, factor: float = 4.0, **config: Any) -> Plan:
    return plan_size(
        ImageConfig(image_path="in.png", **config), source, factor=factor, default_dpi=150
    )


def possible_plan(source: Size, **config: Any) -> Plan:
    """The plan. Examples that are refused because of their scale are skipped."""
    try:
        return plan(source, **config)
    except JobError:
        assume(False)
        raise


def px(width: int, height: int) -> Size:
    return Size(width=width, height=height)


@given(sizes, factors)
def test_without_a_target_the_output_is_input_times_factor(source: Size, factor: float) -> None:
    made = plan(source, factor=factor)
    assert made.scale == factor
    assert abs(made.output.width - source.width * factor) <= 0.5
    assert abs(made.output.height - source.height * factor) <= 0.5
    assert made.scaled == made.output
    assert made.crop_info is None


@pytest.mark.parametrize(
    ("side", "factor", "expected"), [(3, 1.5, 5), (100, 2.3, 230), (1, 1.2, 1)]
)
def test_a_fractional_factor_rounds_to_the_nearest_pixel_halves_up(
    side: int, factor: float, expected: int
) -> None:
    assert plan(px(side, side), factor=factor).output == px(expected, expected)


@given(st.data(), inches, inches, dpis)
def test_inches_times_dpi_is_truncated(
    data: st.DataObject, width: float, height: float, dpi: int
) -> None:
    # A source that is scaled by about 1/4 to 8: nearly all random ones would be refused.
    source = px(
        *(
            max(1, round(int(side * dpi) / data.draw(st.floats(0.25, 8))))
            for side in (width, height)
        )
    )
    made = plan(
        source,
        target_width_inches=width,
        target_height_inches=height,
        target_dpi=dpi,
        crop="center",
    )
    assert made.output == px(max(1, int(width * dpi)), max(1, int(height * dpi)))
    assert made.dpi == dpi


@st.composite
def near_targets(draw: st.DrawFn) -> tuple[Size, Size]:
    """A source of at least 1:4, and a target whose aspect ratio differs by at most 0.01."""
    source = px(draw(st.integers(500, 2000)), draw(st.integers(500, 2000)))
    width = draw(st.integers(500, 8000))
    aspect = source.width / source.height + draw(st.floats(-0.0095, 0.0095))
    target = px(width, round(width / aspect))
    assume(abs(source.width / source.height - target.width / target.height) < 0.01)
    return source, target


@given(near_targets(), anchors)
def test_an_aspect_ratio_within_a_hundredth_gives_exactly_the_target(
    pair: tuple[Size, Size], crop: Crop
) -> None:
    source, target = pair
    made = possible_plan(source, target_width=target.width, target_height=target.height, crop=crop)
    assert made.output == made.scaled == target
    assert made.scale == target.width / source.width
    assert made.crop_info is None


@given(sizes, sizes, dpis)
def test_another_aspect_ratio_covers_the_target_and_reports_the_excess(
    source: Size, target: Size, dpi: int
) -> None:
    difference = source.width / source.height - target.width / target.height
    assume(abs(difference) > 0.01)
    made = possible_plan(
        source, target_width=target.width, target_height=target.height, target_dpi=dpi
    )
    info = made.crop_info
    assert info is not None
    if difference < 0:
        assert info.direction == "vertical"
        assert made.scale == target.width / source.width
        assert made.scaled.width == target.width
        assert info.amount_px == made.scaled.height - target.height
        exact = Fraction(source.height * target.width, source.width)
        assert abs(made.scaled.height - exact) <= Fraction(1, 2)
    else:
        assert info.direction == "horizontal"
        assert made.scale == target.height / source.height
        assert made.scaled.height == target.height
        assert info.amount_px == made.scaled.width - target.width
        exact = Fraction(source.width * target.height, source.height)
        assert abs(made.scaled.width - exact) <= Fraction(1, 2)
    assert info.amount_inches == info.amount_px / dpi
    assert made.output == made.scaled, "without a crop it is only reported"
    assert (made.crop_x, made.crop_y) == (0, 0)


@given(sizes, sizes, anchors)
def test_a_crop_keeps_a_window_of_the_target_size_at_its_anchor(
    source: Size, target: Size, crop: Crop
) -> None:
    assume(crop != "none")
    made = possible_plan(source, target_width=target.width, target_height=target.height, crop=crop)
    assert made.output == target
    spare_x = made.scaled.width - target.width
    spare_y = made.scaled.height - target.height
    assert made.crop_x == (0 if "left" in crop else spare_x if "right" in crop else spare_x // 2)
    assert made.crop_y == (0 if "top" in crop else spare_y if "bottom" in crop else spare_y // 2)
    assert spare_x == 0 or spare_y == 0, "only one direction is ever cropped"


@given(sizes, sides, st.booleans())
def test_a_single_target_side_keeps_the_aspect_ratio(
    source: Size, side: int, is_width: bool
) -> None:
    made = possible_plan(source, **{"target_width" if is_width else "target_height": side})
    given_side, given_source, other, other_source = (
        (made.output.width, source.width, made.output.height, source.height)
        if is_width
        else (made.output.height, source.height, made.output.width, source.width)
    )
    assert given_side == side
    assert made.scale == side / given_source
    assert other == max(1, int(Fraction(other_source * side, given_source) + Fraction(1, 2)))
    assert made.crop_info is None


@given(st.builds(Size, width=sides, height=st.just(1000)), sides)
def test_a_width_is_planned_exactly_if_its_scale_is_between_a_sixteenth_and_sixteen(
    source: Size, width: int
) -> None:
    if source.width / 16 <= width <= source.width * 16:
        assert plan(source, target_width=width).output.width == width
    else:
        with pytest.raises(
            JobError, match=f"the input's {source.width}x{source.height}"
        ) as refusal:
            plan(source, target_width=width)
        assert refusal.value.code is ErrorCode.INVALID_JOB


def test_the_default_dpi_counts_for_inches_alone() -> None:
    print_size = plan(px(600, 400), target_width_inches=12, target_height_inches=8)
    assert print_size.output == px(1800, 1200)
    assert print_size.dpi == 150

    pixels = plan(px(600, 400), target_width=1800, target_height=1800)
    assert pixels.dpi is None
    assert pixels.crop_info is not None
    assert pixels.crop_info.amount_inches is None


def test_a_tall_picture_for_a_wide_print_is_cropped_vertically() -> None:
    made = plan(
        px(1000, 1500),
        target_width_inches=10,
        target_height_inches=8,
        target_dpi=300,
        crop="bottom",
    )
    assert made.scale == 3.0
    assert made.scaled == px(3000, 4500)
    assert made.output == px(3000, 2400)
    assert (made.crop_x, made.crop_y) == (0, 2100)
    assert made.crop_info is not None
    assert made.crop_info.direction == "vertical"
    assert made.crop_info.amount_px == 2100
    assert made.crop_info.amount_inches == 7.0


@pytest.mark.parametrize(
    ("width", "crops"), [(1009, False), (1011, True), (991, False), (989, True)]
)
def test_the_aspect_ratios_may_differ_by_a_hundredth(width: int, crops: bool) -> None:
    made = plan(px(500, 500), target_width=width, target_height=1000)
    assert (made.crop_info is not None) is crops


def test_a_target_smaller_than_the_input_is_planned_too() -> None:
    made = plan(px(4000, 3000), target_width=1000)
    assert made.output == px(1000, 750)
    assert made.scale == 0.25
