"""The precision of a job: the fastest on its device that is exact enough."""

from __future__ import annotations

import torch

from upscaled_protocol.configs import Precision

NAMES: dict[torch.dtype, Precision] = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}
_DTYPES = {name: dtype for dtype, name in NAMES.items()}


def choose_dtype(
    precision: Precision, device: torch.device, bits: int
) -> tuple[torch.dtype, str | None]:
    """The precision of a job, and a warning if it is not the one that was asked for.

    auto: fp16 on CUDA, bf16 on a processor with AMX, else fp32. Pictures of 16 bits per channel
    always get fp32: half precision would lose half of their bits. A precision that is no faster
    than fp32 on a processor is replaced by the fastest that it has.
    """
    fast = _fast_half(device)
    if precision == "auto":
        return torch.float32 if bits == 16 or fast is None else fast, None
    dtype = _DTYPES[precision]
    if dtype in {torch.float32, fast} or device.type != "cpu":
        return dtype, None
    used = fast or torch.float32
    return used, f"{precision} is slow on this processor: {NAMES[used]} was used"


def _fast_half(device: torch.device) -> torch.dtype | None:
    """The 16-bit format that the device computes faster in than in float32."""
    if device.type == "cuda":
        return torch.float16
    # AVX-512's bf16 alone is not faster: on Intel's processors its products are at half the rate of
    # float32's, on AMD's at twice, and Winograd's way in float32 makes a quarter of them.
    if device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16"):
        return torch.bfloat16
    return None
