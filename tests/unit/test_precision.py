"""The precision that a job gets on each kind of processor."""

from __future__ import annotations

import pytest
import torch

from upscaled_models.device.precision import choose_dtype

_CPU = torch.device("cpu")
_WITH_AMX = {"avx512_bf16": True, "amx_bf16": True}
_WITHOUT_AMX = {"avx512_bf16": True, "amx_bf16": False}


@pytest.mark.parametrize(
    ("features", "dtype"),
    [(_WITH_AMX, torch.bfloat16), (_WITHOUT_AMX, torch.float32), ({}, torch.float32)],
)
def test_only_amx_makes_bf16_the_usual_precision(
    features: dict[str, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert choose_dtype("auto", _CPU, bits=8) == (dtype, None)
    assert choose_dtype("auto", _CPU, bits=16) == (torch.float32, None)
    assert choose_dtype("fp32", _CPU, bits=8) == (torch.float32, None)


def test_a_precision_that_is_slow_is_replaced_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: _WITHOUT_AMX)
    replaced = "bf16 is slow on this processor: fp32 was used"
    assert choose_dtype("bf16", _CPU, bits=8) == (torch.float32, replaced)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: _WITH_AMX)
    assert choose_dtype("bf16", _CPU, bits=8) == (torch.bfloat16, None)
    replaced = "fp16 is slow on this processor: bf16 was used"
    assert choose_dtype("fp16", _CPU, bits=8) == (torch.bfloat16, replaced)
