"""The compiled steps give torch's bits, and a network's result is the same without them."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tiny_networks import DTYPES, compact, in_bands, random_picture, without_compiled_steps
from upscaled_models.esrgan.compiled import LIBRARY, library, passes
from upscaled_models.esrgan.pixels import to_bytes, to_rows
from upscaled_models.esrgan.precision import ImpreciseError
from upscaled_models.esrgan.rows.graph import RowGraph
from upscaled_models.esrgan.rows.kernels import Band, Enlargement, Shuffle, enlarged_sum
from upscaled_models.esrgan.rows.tracing import trace

SIDES = st.integers(1, 40)
STRANGE = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, -1e-40, 3.4e38]

compiled = pytest.mark.skipif(not library.available(), reason="there was no C compiler")


def random_band(batch: int, channels: int, height: int, width: int, seed: int) -> Tensor:
    """Channels last, in bf16, some of it strange."""
    generator = torch.Generator().manual_seed(seed)
    band = torch.randn(batch, height, width, channels, generator=generator)
    strange = torch.tensor(STRANGE[: band.numel()])
    band.view(-1)[: len(strange)] = strange
    return band.bfloat16().permute(0, 3, 1, 2)


def not_allocated(_: object, __: object) -> Tensor:
    raise AssertionError("it has memory of its own")


BAND = Band(not_allocated, first=0, height=0)


def test_they_are_compiled_if_there_is_a_compiler() -> None:
    assert library.available() or shutil.which("cc") is None
    with without_compiled_steps():
        assert not library.available()


@compiled
@given(batch=st.integers(1, 2), channels=st.integers(1, 70), height=SIDES, width=SIDES)
@settings(max_examples=60)
def test_prelu_is_torchs(batch: int, channels: int, height: int, width: int) -> None:
    rows = random_band(batch, channels, height, width, seed=channels)
    slopes = torch.linspace(-0.5, 1.5, channels).bfloat16()
    expected = torch.ops.aten._prelu_kernel(rows, slopes.view(1, -1, 1, 1))
    # As part of a longer piece, like rows that wait for a convolution.
    whole = torch.zeros(batch, height + 3, width, channels, dtype=torch.bfloat16)
    out = whole.permute(0, 3, 1, 2).narrow(2, 2, height)
    passes.prelu(rows, passes.repeated(slopes), out)
    assert torch.equal(expected.nan_to_num(7), out.nan_to_num(7))
    assert not whole[:, :2].any()
    assert not whole[:, -1].any()


@compiled
@given(
    batch=st.integers(1, 2),
    channels=st.sampled_from([1, 3]),
    factor=st.integers(1, 8),
    height=st.integers(1, 6),
    width=st.integers(1, 70),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
@settings(max_examples=100)
def test_an_enlarged_sum_is_torchs(
    batch: int, channels: int, factor: int, height: int, width: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(width)
    squares = torch.randn(batch, height, width, factor**2 * channels, generator=generator)
    squares = squares.to(dtype).permute(0, 3, 1, 2)
    source = random_picture(height, width, channels=channels).repeat(batch, 1, 1, 1)
    shuffled = Shuffle(factor, is_ordered=True)([squares], BAND)
    expected = Enlargement(factor)([source], BAND) + shuffled
    assert passes.can_enlarge(factor, channels)
    result = enlarged_sum(torch.float32)([squares, source], BAND)
    assert torch.equal(result, expected)
    pixels = enlarged_sum(torch.uint8)([squares, source], BAND)
    with without_compiled_steps():
        assert torch.equal(pixels, to_bytes(expected)[0])


@compiled
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_sum_that_is_not_finite_is_reported(dtype: torch.dtype) -> None:
    source = random_picture(3, 50)
    squares = torch.zeros(1, 12, 3, 50, dtype=dtype)
    enlarged_sum(torch.uint8)([squares, source], BAND)
    squares[0, 11, 2, 49] = float("nan")
    with pytest.raises(ImpreciseError):
        enlarged_sum(torch.uint8)([squares, source], BAND)


@given(
    values=st.lists(st.floats(-0.125, 1.125, width=32), min_size=1, max_size=200),
    strange=st.sampled_from([None, *STRANGE[2:5]]),
)
def test_bytes_are_the_same_without_them(values: list[float], strange: float | None) -> None:
    picture = torch.tensor(values).view(1, 1, 1, -1)
    pixels, finite = to_bytes(picture)
    with without_compiled_steps():
        expected, expected_finite = to_bytes(picture)
    assert torch.equal(pixels, expected)
    assert finite
    assert expected_finite
    if strange is not None:
        with_strange = torch.cat([picture, torch.tensor([[[[strange]]]])], 3)
        assert not to_bytes(with_strange)[1]


@torch.inference_mode()
def result(graph: RowGraph, picture: Tensor, scale: int, band_rows: int) -> np.ndarray:
    running = graph.open(picture.shape[2], band_rows, as_bytes=True)
    parts = [running.feed(band) for band in in_bands(picture, band_rows)]
    while sum(part.shape[2] for part in parts if part is not None) < picture.shape[2] * scale:
        parts.append(running.drain())
    rows = [to_rows(part, 8) for part in parts if part is not None]
    return np.concatenate(rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_network_gives_the_same_without_them(scale: int, dtype: torch.dtype) -> None:
    model, picture = compact(12, 3, scale), random_picture(50, 70)
    with_them = trace(model, 3, 1, dtype)
    with without_compiled_steps():
        plain = trace(model, 3, 1, dtype)
    first, second = (result(graph, picture, scale, 16) for graph in (with_them, plain))
    # Of 12 channels no compiled convolution takes any: only those round differently.
    assert np.array_equal(first, second)


@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")
def test_clang_is_refused_because_its_library_would_not_load() -> None:
    source = LIBRARY.with_name("processor.c")
    done = subprocess.run(
        ["clang", "-fsyntax-only", source], check=False, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "GCC is needed" in done.stderr
