"""In which numbers to compute: the fastest that are faithful enough on this device."""

from __future__ import annotations

import torch

from upscaled_models.esrgan.loading import Descriptor
from upscaled_protocol.configs import Precision

NAMES: dict[torch.dtype, Precision] = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}
_DTYPES = {name: dtype for dtype, name in NAMES.items()}


class ImpreciseError(ArithmeticError):
    """Raised when a half-precision result is no number, or of one value where the source is not."""


def choose_dtype(
    precision: Precision, device: torch.device, bits: int
) -> tuple[torch.dtype, str | None]:
    """The precision of a job, and a warning where it is not the one that was asked for.

    auto: fp16 on CUDA, bf16 on a processor that multiplies it in hardware, else fp32; always fp32
    for 16 bits a channel, of which half precision would lose half. What a processor can only
    emulate gives way to the fastest that it has.
    """
    fast = _fast_half(device)
    if precision == "auto":
        return torch.float32 if bits == 16 or fast is None else fast, None
    dtype = _DTYPES[precision]
    if dtype in {torch.float32, fast} or device.type != "cpu":
        return dtype, None
    used = fast or torch.float32
    return used, f"{precision} is slow on this processor: {NAMES[used]} was used"


def supported(descriptor: Descriptor, dtype: torch.dtype) -> torch.dtype:
    """The precision itself, or the nearest that the architecture allows."""
    if dtype == torch.float16 and not descriptor.supports_half:
        dtype = torch.bfloat16
    if dtype == torch.bfloat16 and not descriptor.supports_bfloat16:
        dtype = torch.float32
    return dtype


def _fast_half(device: torch.device) -> torch.dtype | None:
    """The 16-bit format that the device computes faster in than in float32."""
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu":
        features = torch.cpu.get_capabilities()
        if features.get("avx512_bf16") or features.get("amx_bf16"):
            return torch.bfloat16
    return None
