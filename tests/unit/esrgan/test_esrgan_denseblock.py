"""Dense blocks in place compute what the network's own calls compute, in bands of any height."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tiny_networks import compact, in_bands, random_picture
from upscaled_models.esrgan.compiled import convolution, library
from upscaled_models.esrgan.compiled.convolution import (
    Addend,
    Convolved,
    PackedConvolution,
    Rows,
    convolve,
)
from upscaled_models.esrgan.rows.graph import RowGraph
from upscaled_models.esrgan.rows.tracing import trace

in_float = pytest.mark.skipif(
    convolution.kernel(torch.float32) is None, reason="no convolution is compiled for floats here"
)


def rrdb() -> nn.Module:
    """Of a width that the compiled convolutions take."""
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    model: nn.Module = ESRGAN(num_filters=32, num_blocks=1, scale=4)
    return model.eval()


@torch.inference_mode()
def stream(graph: RowGraph, picture: Tensor, band_rows: int) -> Tensor:
    height = picture.shape[2]
    running = graph.open(height, band_rows)
    parts = [running.feed(band) for band in in_bands(picture, band_rows)]
    while sum(part.shape[2] for part in parts if part is not None) < height * 4:
        parts.append(running.drain())
    return torch.cat([part for part in parts if part is not None], 2)


@in_float
def test_an_rrdb_of_floats_is_computed_in_place() -> None:
    blocks = [operation.block for operation in trace(rrdb(), 3, 1, torch.float32)._operations]
    # Three dense blocks, then five convolutions; the first one reads three channels.
    lengths = [len(block.convolutions) for block in blocks if block is not None]
    assert lengths == [5, 5, 5, 1, 1, 1, 1, 1]
    assert len(blocks) == len(lengths) + 1


@in_float
@pytest.mark.parametrize(("height", "width"), [(21, 37), (3, 2), (40, 5)])
def test_its_result_is_the_modules_in_bands_of_any_height(height: int, width: int) -> None:
    model = rrdb()
    graph = trace(model, 3, 1, torch.float32)
    # Two pictures at once, each with rows of its own.
    picture = torch.cat([random_picture(height, width, seed=seed) for seed in (0, 1)])
    with torch.inference_mode():
        expected = model(picture)
    whole = stream(graph, picture, height)
    assert (whole - expected).abs().max() <= 1e-5 * expected.abs().max()
    for rows in (1, 3, 16):
        assert torch.equal(stream(graph, picture, rows), whole)


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize(("height", "width"), [(21, 9), (40, 5)])
def test_the_same_holds_in_bf16(height: int, width: int) -> None:
    graph = trace(rrdb(), 3, 1, torch.bfloat16)
    picture = torch.cat([random_picture(height, width, seed=seed) for seed in (0, 1)])
    with torch.inference_mode():
        expected = rrdb()(picture)
    whole = stream(graph, picture, height)
    assert (whole - expected).abs().max() <= 2**-6 * expected.abs().max()
    for rows in (1, 3, 16):
        assert torch.equal(stream(graph, picture, rows), whole)


@in_float
def test_so_is_a_network_without_dense_blocks() -> None:
    model = compact(16, 3)
    graph = trace(model, 3, 1, torch.float32)
    blocks = [operation.block for operation in graph._operations]
    # The first convolution reads three channels, and the result has 48 before its pixels are
    # shuffled.
    assert [block.channels for block in blocks if block is not None] == [16, 16, 16, 16]
    picture = random_picture(23, 31)
    with torch.inference_mode():
        expected = model(picture)
    assert (stream(graph, picture, 23) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.usefixtures("bf16")
def test_a_network_without_dense_blocks_is_computed_in_bf16_too() -> None:
    model = compact(48, 3)
    graph = trace(model, 3, 1, torch.bfloat16)
    blocks = [operation.block for operation in graph._operations]
    assert [block.channels for block in blocks if block is not None] == [48] * 4
    picture = random_picture(23, 31)
    with torch.inference_mode():
        expected = model(picture)
    whole = stream(graph, picture, 23)
    assert (whole - expected).abs().max() <= 2**-6 * expected.abs().max()
    assert torch.equal(stream(graph, picture, 3), whole)


def channels_last(*shape: int, seed: int) -> Tensor:
    """Random values, (C, h, W)."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return values.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def convolve_all(packed: PackedConvolution, source: Tensor, out: Tensor, **more: Any) -> None:
    """All rows of a picture."""
    last = out.shape[1]
    rows = Convolved(packed, Rows(source, 0), Rows(out, 0), last, 0, last, 0, **more)
    convolve([rows])


def convolved(source: Tensor, weight: Tensor, bias: Tensor, slopes: Tensor) -> Tensor:
    result = functional.conv2d(source[None].float(), weight.bfloat16().float(), bias, 1, 1)
    return torch.where(result > 0, result, result * slopes.view(-1, 1, 1))[0]


@pytest.mark.usefixtures("bf16")
# Less than the pixels of a tile, just as many, more; beside the borders, and not.
@pytest.mark.parametrize("width", [1, 16, 17, 32, 34, 70])
# A multiple of the inputs that are multiplied at once, and not.
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 32), (48, 32), (16, 48), (60, 37), (17, 3)])
def test_a_convolution_in_bf16_reads_and_writes_among_other_channels(
    width: int, inputs: int, outputs: int
) -> None:
    generator = torch.Generator().manual_seed(width)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / 24
    bias, slopes = torch.randn(2, outputs, generator=generator)
    packed = PackedConvolution(weight, bias, slopes, torch.bfloat16)
    height = 6
    rows = channels_last(128, height, width, seed=1)
    before = rows.clone()
    added = channels_last(outputs, height, width, seed=2)
    convolve_all(
        packed,
        rows[:inputs],
        rows[-outputs:],
        addends=[Addend(Rows(added, 0), 0.25), Addend(Rows(rows[:outputs], 0), 0.5)],
    )
    expected = convolved(before[:inputs], weight, bias, slopes)
    expected = (expected * 0.25 + added) * 0.5 + before[:outputs]
    torch.testing.assert_close(rows[-outputs:].float(), expected, rtol=2**-8, atol=1e-3)
    assert torch.equal(rows[:-outputs], before[:-outputs])


@in_float
@pytest.mark.parametrize("width", [1, 7, 24])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 32), (48, 16), (60, 37), (45, 60), (13, 3)])
def test_a_convolution_in_float_does_too(width: int, inputs: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(width)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / 24
    bias, slopes = torch.randn(2, outputs, generator=generator)
    packed = PackedConvolution(weight, bias, slopes, torch.float32)
    rows = channels_last(128, 6, width, seed=1).float()
    before = rows.clone()
    # What lies behind the inputs of a pixel counts for nothing.
    rows[inputs:-outputs] = torch.nan
    added = channels_last(outputs, 6, width, seed=2).float()
    convolve_all(packed, rows[:inputs], rows[-outputs:], addends=[Addend(Rows(added, 0), 0.25)])
    expected = functional.conv2d(before[None, :inputs], weight, bias, 1, 1)[0]
    expected = torch.where(expected > 0, expected, expected * slopes.view(-1, 1, 1))
    torch.testing.assert_close(rows[-outputs:], expected * 0.25 + added, rtol=1e-4, atol=1e-4)
    assert torch.equal(rows[:inputs], before[:inputs])
    assert rows[inputs:-outputs].isnan().all()


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("inputs", [45, 48, 64])
@pytest.mark.parametrize("is_doubled", [False, True])
def test_a_convolution_in_bf16_reads_whole_pixels(inputs: int, is_doubled: bool) -> None:
    weight = torch.randn(48, inputs, 3, 3, generator=torch.Generator().manual_seed(0)) / 24
    bias, slopes = torch.zeros(48), torch.full((48,), 0.5)
    source = channels_last(inputs, 5, 50, seed=1)
    read = source.repeat_interleave(2, 1).repeat_interleave(2, 2) if is_doubled else source
    _, height, width = read.shape
    out = channels_last(48, height, width, seed=2)
    packed = PackedConvolution(weight, bias, slopes, torch.bfloat16)
    convolve_all(packed, source, out, is_doubled=is_doubled)
    expected = convolved(read, weight, bias, slopes)
    torch.testing.assert_close(out.float(), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.usefixtures("bf16")
def test_convolutions_that_follow_each_other_by_some_rows_read_whole_results() -> None:
    # So wide that few rows are computed at once; the source lies between two columns of zeros.
    height, width = 13, 530
    rows = channels_last(64, height, width + 2, seed=1)
    rows[:, :, 0] = rows[:, :, -1] = 0
    inside = rows[:, :, 1:-1]
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(16, inputs, 3, 3, generator=generator) / 24 for inputs in (32, 48)]
    first, second = (PackedConvolution(one, None, 0.2, torch.bfloat16) for one in weights)
    out = channels_last(16, height, width, seed=2)

    def part(start: int, end: int) -> Rows:
        return Rows(inside[start:end], 0, has_margin=True)

    convolve(
        [
            Convolved(first, part(0, 32), part(32, 48), height, 0, height - 1, 0),
            Convolved(second, part(0, 48), Rows(out, 0), height - 1, 0, height - 2, 0),
        ]
    )
    nothing, slopes = torch.zeros(16), torch.full((16,), 0.2)
    middle = convolved(inside[:32], weights[0], nothing, slopes)
    torch.testing.assert_close(inside[32:48, :-1].float(), middle[:, :-1], rtol=2**-8, atol=1e-3)
    expected = convolved(inside[:48], weights[1], nothing, slopes)[:, :-2]
    torch.testing.assert_close(out[:, :-2].float(), expected, rtol=2**-8, atol=1e-3)


@in_float
def test_weights_are_laid_out_when_they_are_first_used(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    call = library.call

    def recorded(name: str, *arguments: Any) -> int:
        called.append(name)
        return call(name, *arguments)

    monkeypatch.setattr(library, "call", recorded)
    packed = PackedConvolution(torch.ones(16, 16, 3, 3), None, 1.0, torch.float32)
    assert not called
    # 36 points in place of 9 weights.
    assert packed.extra_bytes == (36 - 9) * 16 * 16 * 4
    source, out = (torch.ones(4, 4, 16).permute(2, 0, 1) for _ in range(2))
    for _ in range(2):
        convolve_all(packed, source, out)
    assert called == ["pack_float", "convolve_float", "convolve_float"]
