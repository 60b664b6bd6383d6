"""Pixels as files have them, and planes as networks take them.

A network for RGB takes gray as three equal channels, and alpha as a gray picture of its own that
travels in the same batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_planes(rows: np.ndarray, channels: int, device: torch.device) -> Tensor:
    """Rows (h, W, 1 to 4) of uint8 or uint16 to planes (B, channels, h, W) of float32, 0 to 1.

    B is one for the colours, or three for a gray network's, and one more for alpha.
    """
    bands = rows.shape[2]
    pixels = torch.from_numpy(np.array(rows, np.float32, order="C")).to(device)
    pixels.div_(np.iinfo(rows.dtype).max)
    if channels == 1:
        return pixels.permute(2, 0, 1).unsqueeze(1)
    colours = bands - (bands in (2, 4))
    parts = [pixels[:, :, :colours].expand(-1, -1, 3)]
    if colours < bands:
        parts.append(pixels[:, :, colours:].expand(-1, -1, 3))
    return torch.stack(parts).permute(0, 3, 1, 2)


@torch.inference_mode()
def to_bands(planes: Tensor, bands: int) -> Tensor:
    """Planes (B, channels, h, W) back to one picture of as many bands, (1, bands, h, W).

    Gray is the mean of the three channels that a network for RGB makes of it.
    """
    if planes.shape[1] == 1:
        return planes.transpose(0, 1)
    gray = planes if bands < 3 else planes[1:]
    parts = [plane.mean(0, keepdim=True) for plane in gray]
    if bands >= 3:
        parts.insert(0, planes[0])
    return torch.cat(parts).unsqueeze(0) if len(parts) > 1 else parts[0].unsqueeze(0)


@torch.inference_mode()
def to_rows(picture: Tensor, bits: int) -> np.ndarray:
    """A picture (1, bands, h, W), 0 to 1, to rows (h, W, bands) of 8 or 16 bits, rounded."""
    top = 2**bits - 1
    half = torch.tensor(0.5, device=picture.device)
    # Channels last, so that it is the rows' own order in memory.
    scaled = torch.add(half, picture.float(), alpha=top).clamp_(0, top)
    pixels = scaled[0].permute(1, 2, 0).contiguous()
    if pixels.device.type != "cpu" and bits == 8:
        return pixels.to(torch.uint8).cpu().numpy()
    # On a processor NumPy truncates four times as fast as torch.
    rows: np.ndarray = pixels.cpu().numpy().astype(np.uint8 if bits == 8 else np.uint16)
    return rows
