"""Before any of the tests imports torch: its threads are not to spin on a busy machine."""

# ruff: noqa: E402

from upscaled_models.device.threads import settle_waiting

settle_waiting()

import pytest
import torch

from upscaled_models.esrgan.compiled import convolution, library

_KERNELS = [
    "convolve_bf16_plain",
    *(["convolve_bf16"] if convolution.kernel(torch.bfloat16) is not None else []),
]


@pytest.fixture(params=_KERNELS)
def bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in bf16 are compiled ones, in plain C; and on AMX, if the processor has it."""
    if not library.available():
        pytest.skip("there was no C compiler")
    kernel = convolution.kernel
    monkeypatch.setattr(
        convolution,
        "kernel",
        lambda dtype: request.param if dtype == torch.bfloat16 else kernel(dtype),
    )
