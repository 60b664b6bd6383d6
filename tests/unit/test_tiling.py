"""Sides are cut into spans that cover them, and results that overlap are blended without a seam."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upscaled_models.tiling import (
    Span,
    cosine_weights,
    join,
    linear_weights,
    overlapping,
    partition,
    shortest_overlapping,
    stitch,
)


@given(
    length=st.integers(1, 5000),
    units=st.integers(1, 300),
    grid=st.sampled_from([1, 2, 8, 16]),
)
def test_a_partition_covers_the_length_once(length: int, units: int, grid: int) -> None:
    spans = partition(length, units * grid, grid)
    assert (spans[0].start, spans[-1].stop) == (0, length)
    for before, after in pairwise(spans):
        assert before.stop == after.start
        assert after.start % grid == 0
    lengths = [span.length for span in spans]
    assert 0 < min(lengths) <= max(lengths) <= units * grid
    assert max(lengths) - min(lengths) <= 2 * grid


@given(st.integers(1, 5000), st.integers(1, 600), st.integers(0, 599))
def test_spans_that_overlap_cover_the_length_with_no_more_of_them_than_needed(
    length: int, side: int, overlap: int
) -> None:
    overlap %= side
    spans = overlapping(length, side, overlap)
    assert (spans[0].start, spans[-1].stop) == (0, length)
    assert {span.length for span in spans} == {min(side, length)}
    assert all(before.stop - after.start >= overlap for before, after in pairwise(spans))
    assert len(spans) == 1 or (len(spans) - 1) * (side - overlap) + overlap < length
    short = shortest_overlapping(length, side, overlap)
    assert len(short) == len(spans)
    assert (short[0].start, short[-1].stop) == (0, length)
    assert all(before.stop - after.start >= overlap for before, after in pairwise(short))


def test_a_span_is_widened_within_the_length() -> None:
    assert Span(3, 5).widened(2, 10) == Span(1, 7)
    assert Span(1, 9).widened(4, 10) == Span(0, 10)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_the_weights_of_two_neighbours_add_up_to_one(count: int) -> None:
    for weights in (linear_weights(count), cosine_weights(count, torch.device("cpu")).numpy()):
        assert weights.dtype == np.float32
        assert np.all(np.diff(weights) > 0)
        np.testing.assert_allclose(weights + weights[::-1], 1, rtol=1e-6)


@given(st.integers(16, 300), st.integers(16, 96), st.sampled_from([0, 1, 2]))
def test_tiles_of_one_picture_join_to_that_picture_exactly(
    length: int, side: int, dim: int
) -> None:
    shape = [2, 3, 4]
    shape[dim] = length
    picture = torch.rand(shape)
    offsets = [span.start for span in overlapping(length, side, side // 8)]
    parts = [picture.narrow(dim, at, min(side, length - at)) for at in offsets]
    assert torch.equal(join(parts, offsets, dim), picture)


def test_tiles_that_differ_fade_into_each_other() -> None:
    joined = join([torch.zeros(1, 1, 10), torch.ones(1, 1, 10)], [0, 6], 2)
    assert joined.flatten().tolist() == [0] * 6 + [0.125, 0.375, 0.625, 0.875] + [1] * 6


def test_finished_parts_come_as_soon_as_they_are() -> None:
    taken: list[int] = []

    def parts() -> Iterator[torch.Tensor]:
        for index in range(3):
            taken.append(index)
            yield torch.full((4,), float(index))

    stream = stitch(parts(), [0, 3, 6], 0)
    assert next(stream).tolist() == [0, 0, 0]
    assert taken == [0]
