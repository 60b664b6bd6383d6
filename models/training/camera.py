"""From light to a photograph: lens blur, depth of field, noise, tone curve and finish."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]


def expose(rng: np.random.Generator, light: Floats) -> NDArray[np.uint8]:
    """Photograph `light`, (H, W, 3) linear and unbounded, as sRGB uint8 of the same shape."""
    if rng.random() < 0.5:
        light = blur(light, rng.uniform(0.0, 0.55))
    else:
        light = blur(light, rng.uniform(0.55, 1.6))
    if rng.random() < 0.3:
        light = _defocus(rng, light)
    light *= rng.uniform(0.6, 1.5) * 0.35 / max(float(light.mean()), 1e-3)
    if rng.random() < 0.4:
        grain = rng.standard_normal(light.shape, dtype=np.float32)
        light += grain * np.sqrt(np.maximum(light, 0.0)) * np.float32(rng.uniform(0.0, 0.012))
    picture = encode_srgb(light)
    if rng.random() < 0.3:
        picture += (picture - blur(picture, rng.uniform(0.6, 1.4))) * rng.uniform(0.2, 0.9)
    pixels = np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)
    return _store(rng, pixels)


def encode_srgb(light: Floats) -> Floats:
    """Linear light to the sRGB curve of IEC 61966-2-1; below 0 and above 1 are clipped."""
    clipped = np.clip(light, 0.0, 1.0)
    bright = 1.055 * clipped ** np.float32(1 / 2.4) - 0.055
    curve: Floats = np.where(clipped <= 0.0031308, clipped * 12.92, bright).astype(np.float32)
    return curve


def blur(picture: Floats, sigma: float) -> Floats:
    """Gaussian blur of (H, W, C) by `sigma` pixels; the picture wraps around at its edges."""
    if sigma < 0.15:
        return picture
    height, width, _ = picture.shape
    down = np.fft.fftfreq(height).astype(np.float32)[:, None]
    right = np.fft.rfftfreq(width).astype(np.float32)[None, :]
    transfer = np.exp(np.float32(-2.0 * (np.pi * sigma) ** 2) * (down * down + right * right))
    spectrum = np.fft.rfft2(picture, axes=(0, 1)) * transfer[..., None]
    blurred: Floats = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1)).astype(np.float32)
    return blurred


def _defocus(rng: np.random.Generator, light: Floats) -> Floats:
    """Blur one part of the picture more than another, with a soft border between them."""
    height, width, _ = light.shape
    noise = rng.standard_normal((height, width, 1), dtype=np.float32)
    depth = blur(noise, rng.uniform(0.06, 0.25) * height)
    depth /= max(float(depth.std()), 1e-9)
    blurred = blur(light, rng.uniform(1.0, 6.0))
    amount = 1.0 / (1.0 + np.exp(-rng.uniform(2.0, 8.0) * (depth + rng.uniform(-0.5, 1.0))))
    mixed: Floats = (light + (blurred - light) * amount).astype(np.float32)
    return mixed


def _store(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Some photographs have been through a good JPEG; most of these come back untouched."""
    if rng.random() >= 0.25:
        return pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(85, 98)))
    return np.array(Image.open(buffer), dtype=np.uint8)
