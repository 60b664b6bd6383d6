"""Pixels between the host and a card: in the file's own format, through memory that is pinned.

That is a quarter of the bytes of float32, and pinned memory is copied eight times as fast. torch
keeps pinned memory, and gives it out again once its copy has ended. Memory that is not pinned, as
for Apple's GPUs, has no such keeper, so there each copy is waited for.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# torch lacks operations for uint16, so the bits travel as int16.
_CARRIERS: dict[np.dtype, torch.dtype] = {
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.uint16): torch.int16,
}
_LOW_BITS = 0xFFFF


def send(rows: np.ndarray, device: torch.device) -> Tensor:
    """Rows of uint8 or uint16, of any shape, as float32 on the device: the same numbers.

    On a card the copy may still be under way when this returns. The next operation of the thread's
    stream waits for it.
    """
    carrier = _CARRIERS[rows.dtype]
    staged = _staged(rows.shape, carrier, device)
    np.copyto(staged.numpy().view(rows.dtype), rows)
    pixels = staged.to(device, non_blocking=staged.is_pinned())
    if carrier == torch.int16:
        pixels = pixels.to(torch.int32).bitwise_and_(_LOW_BITS)
    return pixels.float()


def fetch(pixels: Tensor, bits: int) -> np.ndarray:
    """Whole numbers in any type, 0 to 255 or to 65535, as uint8 or uint16 on the host, contiguous.

    Waits until the device has computed them.
    """
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
    carrier = _CARRIERS[dtype]
    if carrier == torch.int16 and pixels.is_floating_point():
        pixels = pixels.to(torch.int32)
    # To int16 the upper half of uint16 wraps around, to the same bits.
    packed = pixels.to(carrier).contiguous()
    staged = _staged(packed.shape, carrier, packed.device)
    is_pinned = staged.is_pinned()
    staged.copy_(packed, non_blocking=is_pinned)
    if is_pinned:
        torch.cuda.current_stream(packed.device).synchronize()
    return staged.numpy().view(dtype)


def _staged(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
