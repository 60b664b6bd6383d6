"""Half precision: which networks support it, and how its failure is reported."""

from __future__ import annotations

import torch

from upscaled_models.esrgan.loading import Descriptor


class ImpreciseError(ArithmeticError):
    """Raised when a result is no number, or if half precision made a source with details flat."""


def supported(descriptor: Descriptor, dtype: torch.dtype) -> torch.dtype:
    """The precision itself, or the nearest that the architecture allows."""
    if dtype == torch.float16 and not descriptor.supports_half:
        dtype = torch.bfloat16
    if dtype == torch.bfloat16 and not descriptor.supports_bfloat16:
        dtype = torch.float32
    return dtype
