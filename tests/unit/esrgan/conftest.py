"""Before any of the tests imports torch: its threads are not to spin on a busy machine."""

# ruff: noqa: E402

from upscaled_models.device.threads import settle_waiting

settle_waiting()

import pytest
import torch

from upscaled_models.esrgan.compiled import convolution, library


@pytest.fixture
def plain_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as on AMX, with plain C in place of its instructions."""
    if not library.available():
        pytest.skip("there was no C compiler")
    kernel = convolution.kernel
    monkeypatch.setattr(
        convolution,
        "kernel",
        lambda dtype: "convolve_bf16_plain" if dtype == torch.bfloat16 else kernel(dtype),
    )
