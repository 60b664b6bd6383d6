"""Pixels as files have them to planes as networks take them, and back.

A network for RGB takes gray as three equal channels. Alpha is a gray picture of its own in the same
batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upscaled_models.esrgan import transfer
from upscaled_models.esrgan.compiled import library, passes


def to_picture(rows: np.ndarray, device: torch.device) -> Tensor:
    """Rows (h, W, bands) of uint8 or uint16 to a picture (1, bands, h, W) of float32, 0 to 1."""
    if device.type == "cpu":
        pixels = torch.from_numpy(np.array(rows, np.float32, order="C"))
    else:
        pixels = transfer.send(rows, device)
    return pixels.div_(np.iinfo(rows.dtype).max).permute(2, 0, 1).unsqueeze(0)


def to_planes(picture: Tensor, channels: int) -> Tensor:
    """A picture (1, 1 to 4 bands, h, W) to planes (B, channels, h, W).

    B is one for the colours, or three for a gray network's, and one more for alpha.
    """
    if channels == 1:
        return picture.transpose(0, 1)
    # Channels last, as networks take them.
    pixels = picture[0].permute(1, 2, 0)
    bands = pixels.shape[2]
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
def to_bytes(picture: Tensor) -> tuple[Tensor, bool]:
    """A picture in any floats, 0 to 1, rounded to uint8; and True if all its values were finite."""
    picture = picture.float()
    if picture.device.type == "cpu" and library.available():
        return passes.to_bytes(picture)
    finite = bool(torch.isfinite(picture.sum()))
    scaled = _scaled(picture, 255)
    if scaled.device.type == "cpu":
        # NumPy truncates four times as fast as torch.
        return torch.from_numpy(scaled.numpy().astype(np.uint8)), finite
    return scaled.to(torch.uint8), finite


@torch.inference_mode()
def to_rows(picture: Tensor, bits: int) -> np.ndarray:
    """A picture (1, bands, h, W), 0 to 1 or in uint8, to rows (h, W, bands) of 8 or 16 bits."""
    if bits == 8:
        pixels = picture if picture.dtype == torch.uint8 else to_bytes(picture)[0]
    else:
        pixels = _scaled(picture.float(), 65535)
    pixels = pixels[0].permute(1, 2, 0)
    if pixels.device.type != "cpu":
        return transfer.fetch(pixels, bits)
    rows: np.ndarray = pixels.numpy()
    return np.ascontiguousarray(rows if bits == 8 else rows.astype(np.uint16))


def _scaled(picture: Tensor, top: int) -> Tensor:
    half = torch.tensor(0.5, device=picture.device)
    # Channels last, which is the order of rows in memory.
    scaled = torch.add(half, picture, alpha=top).clamp_(0, top)
    return scaled.contiguous(memory_format=torch.channels_last)
