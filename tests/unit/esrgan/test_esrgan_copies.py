"""Copies that turn tokens to channels and back are compiled, and give what torch's give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_networks import network, random_picture
from upscaled_models.esrgan import copies
from upscaled_models.esrgan.compiled import library
from upscaled_models.esrgan.compiled.transpose import transposed
from upscaled_models.esrgan.copies import CompiledCopies

pytestmark = pytest.mark.skipif(
    not library.lanes(), reason="no copies are compiled for this processor"
)

COMPILED: dict[str, Callable[[], Tensor]] = {
    "tokens to channels": lambda: torch.rand(2, 600, 60).transpose(1, 2),
    "some channels of tokens": lambda: torch.rand(1, 600, 90)[..., 30:60].transpose(1, 2),
    "channels to tokens": lambda: torch.rand(1, 300, 17, 29).permute(0, 2, 3, 1),
    "windows of channels": lambda: torch.rand(1, 30, 3, 8, 4, 16).permute(0, 2, 4, 3, 5, 1),
    "sides that fill no vector": lambda: torch.rand(5, 77, 131).mT,
    "more than one part": lambda: torch.rand(520, 300).mT,
}
LEFT_TO_TORCH: dict[str, Callable[[], Tensor]] = {
    "what is in order": lambda: torch.rand(80, 90),
    "few numbers": lambda: torch.rand(20, 30).mT,
    "narrow": lambda: torch.rand(4000, 3).mT,
    "rows with gaps": lambda: torch.rand(90, 160)[:, ::2].mT,
    "halves": lambda: torch.rand(80, 90).bfloat16().mT,
    "too many dimensions": lambda: torch.rand(2, 3, 2, 3, 2, 20, 30).transpose(0, 4).mT,
}


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_copy_is_torchs(name: str) -> None:
    given = COMPILED[name]()
    result = transposed(given)
    assert result is not None
    assert result.is_contiguous()
    assert torch.equal(result, given)


@pytest.mark.parametrize("name", LEFT_TO_TORCH)
def test_other_copies_are_left_to_torch(name: str) -> None:
    assert transposed(LEFT_TO_TORCH[name]()) is None


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_a_network_computes_the_same_bits_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from spandrel.architectures.DAT import DAT

    torch.manual_seed(0)
    model = DAT(embed_dim=32, depth=[2], num_heads=[2], split_size=[8, 16], upscale=2)
    small, picture = network(model.eval()), random_picture(32, 32)
    counted = []

    def recorded(given: Tensor) -> Any:
        result = transposed(given)
        counted.append(result is not None)
        return result

    monkeypatch.setattr(copies, "transposed", recorded)
    compiled = small._forward(picture)
    assert any(counted)
    monkeypatch.setattr(copies, "transposed", lambda _: None)
    assert torch.equal(compiled, small._forward(picture))


def test_only_copies_without_options_are_compiled() -> None:
    given = torch.rand(1, 64, 20, 30)
    with CompiledCopies():
        result = given.contiguous(memory_format=torch.channels_last)
    assert result.is_contiguous(memory_format=torch.channels_last)
