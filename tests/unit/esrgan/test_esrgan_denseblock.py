"""Dense blocks in place compute what the network's own calls compute, in bands of any height."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tiny_networks import compact, in_bands, random_picture
from upscaled_models.esrgan.compiled import convolution, library
from upscaled_models.esrgan.compiled.convolution import Addend, PackedConvolution, Rows
from upscaled_models.esrgan.rows.graph import RowGraph
from upscaled_models.esrgan.rows.tracing import trace

in_float = pytest.mark.skipif(
    convolution.kernel(torch.float32) is None, reason="no convolution is compiled for floats here"
)
compiled = pytest.mark.skipif(not library.available(), reason="there was no C compiler")


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
    # Three dense blocks, then four convolutions; the first and the last have three channels.
    lengths = [len(block.convolutions) for block in blocks if block is not None]
    assert lengths == [5, 5, 5, 1, 1, 1, 1]
    assert len(blocks) == len(lengths) + 2


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


@compiled
@pytest.mark.parametrize(("height", "width"), [(21, 9), (40, 5)])
def test_the_same_holds_in_bf16(monkeypatch: pytest.MonkeyPatch, height: int, width: int) -> None:
    # The same as on AMX, with plain C in place of its instructions.
    monkeypatch.setattr(convolution, "kernel", lambda _: "convolve_bf16_plain")
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


@compiled
@pytest.mark.parametrize("width", [1, 32, 45])
def test_a_convolution_in_bf16_reads_and_writes_among_other_channels(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    # The same as on AMX, with plain C in place of its instructions.
    monkeypatch.setattr(convolution, "kernel", lambda _: "convolve_bf16_plain")
    generator = torch.Generator().manual_seed(width)
    weight = torch.randn(32, 64, 3, 3, generator=generator) / 24
    bias, slopes = torch.randn(2, 32, generator=generator)
    packed = PackedConvolution(weight, bias, slopes, torch.bfloat16)
    height = 6
    # A pixel of zeros is before each row and behind the last.
    pixels = torch.zeros(height * (width + 1) + convolution.READABLE_PIXELS, 128).bfloat16()
    rows = pixels[: height * (width + 1)].view(height, width + 1, 128)[:, 1:].permute(2, 0, 1)
    rows.copy_(torch.randn(128, height, width, generator=generator))
    before = rows.clone()
    added = torch.randn(32, height, width, generator=generator).bfloat16()
    added = added.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    packed.run(
        Rows(rows[:64], 0),
        Rows(rows[96:], 0),
        until=height,
        first=0,
        last=height,
        grid=0,
        addends=[Addend(Rows(added, 0), 0.25), Addend(Rows(rows[:32], 0), 0.5)],
    )
    expected = functional.conv2d(before[None, :64].float(), weight.bfloat16().float(), bias, 1, 1)
    expected = torch.where(expected > 0, expected, expected * slopes.view(-1, 1, 1))[0]
    expected = (expected * 0.25 + added) * 0.5 + before[:32]
    torch.testing.assert_close(rows[96:].float(), expected, rtol=2**-8, atol=1e-3)
    assert torch.equal(rows[:96], before[:96])


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
    rows, out = (Rows(torch.ones(4, 4, 16).permute(2, 0, 1), 0) for _ in range(2))
    for _ in range(2):
        packed.run(rows, out, until=4, first=0, last=4, grid=0)
    assert called == ["pack_float", "convolve_float", "convolve_float"]
