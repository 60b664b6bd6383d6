"""Pictures made from nothing: scenes of occluding shapes, as a camera would have taken them.

The statistics of a photograph that matter to an upscaler are occlusion edges at every size, flat
and shaded regions, textures whose spectrum falls off as a power of frequency, and a lens that is
never quite sharp. The dead-leaves model (Lee, Mumford and Huang, "Occlusion models for natural
images", IJCV 2001) gives the first; the rest is added here. A scene is drawn as a map of shape
numbers at twice the size, shaded in linear light, and reduced, so that edges are antialiased as
they are on a sensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.camera import blur, expose
from training.shapes import Drawing, draw_scene
from training.textures import field

Floats = NDArray[np.float32]

RECIPE = 1
"""Raised with every change of what these modules draw, so that an old bank is not taken for new."""

OVERSAMPLING = 2
"""Rendered pixels per pixel of the picture, to each side; 2 are enough, because of the blur."""

TEXTURES = 4
"""Texture fields drawn for each picture; every shape samples one of them at its own offset."""


def make_picture(seed: int, index: int, side: int) -> NDArray[np.uint8]:
    """Picture number `index` of the endless series that `seed` names.

    Returns (side, side, 3) sRGB, uint8. The same three numbers give the same picture with the
    same releases of NumPy and Pillow.
    """
    rng = np.random.default_rng([seed, index])
    rendered_side = side * OVERSAMPLING
    drawing = draw_scene(rng, rendered_side)
    materials = _Materials.random(rng, drawing, rendered_side)
    light = _shade(rng, drawing, materials)
    light = light.reshape(side, OVERSAMPLING, side, OVERSAMPLING, 3).mean(axis=(1, 3))
    return expose(rng, light)


@dataclass(frozen=True)
class _Materials:
    """What each shape is made of; arrays are indexed by shape number."""

    colour: Floats  # (shapes, 3), linear light
    other_colour: Floats  # (shapes, 3), linear light: mottled into the first
    mottling: Floats  # (shapes,), 0 to 1
    slope: Floats  # (shapes, 2): brightness gained per shape radius, down and right
    roundness: Floats  # (shapes,): brightness lost from the middle to the rim
    texture: NDArray[np.int64]  # (shapes,): which texture field
    contrast: Floats  # (shapes,): standard deviation of log brightness
    shift: NDArray[np.int64]  # (shapes, 2), pixels: where in the field

    @classmethod
    def random(cls, rng: np.random.Generator, drawing: Drawing, side: int) -> _Materials:
        count = drawing.count
        palette = _palette(rng)
        jitter = np.exp(rng.normal(0.0, rng.uniform(0.02, 0.3), (count, 1)))
        tint = np.exp(rng.normal(0.0, 0.04, (count, 3)))
        colour = palette[rng.integers(len(palette), size=count)] * jitter * tint
        busy = rng.uniform(0.1, 0.9)
        textured = rng.random(count) < busy
        strength = np.exp(rng.normal(np.log(rng.uniform(0.03, 0.3)), 0.6, count))
        shaded = rng.random(count) < rng.uniform(0.2, 0.9)
        return cls(
            colour=colour.astype(np.float32),
            other_colour=palette[rng.integers(len(palette), size=count)].astype(np.float32),
            mottling=(rng.random(count) * (rng.random(count) < rng.uniform(0, 0.4))).astype(
                np.float32
            ),
            slope=(rng.normal(0.0, 0.25, (count, 2)) * shaded[:, None]).astype(np.float32),
            roundness=(rng.uniform(0.0, 0.6, count) * shaded).astype(np.float32),
            texture=rng.integers(TEXTURES, size=count),
            contrast=(strength * textured).astype(np.float32),
            shift=rng.integers(side, size=(count, 2)),
        )


def _palette(rng: np.random.Generator) -> NDArray[np.float64]:
    """A few colours that go together: (n, 3), linear light, 0.01 to 1.3."""
    count = int(rng.integers(3, 10))
    darkest = np.exp(rng.uniform(np.log(0.01), np.log(0.5)))
    luminance = np.exp(rng.uniform(np.log(darkest), 0.0, (count, 1)))
    colourfulness = rng.choice([0.05, 0.2, 0.5, 0.9], p=[0.2, 0.35, 0.3, 0.15])
    hues = rng.normal(0.0, colourfulness, (count, 3)) + rng.normal(0.0, 0.1, 3)
    chroma = np.exp(hues - hues.mean(axis=1, keepdims=True))
    colours: NDArray[np.float64] = np.clip(luminance * chroma, 0.005, 1.3)
    return colours


def _shade(rng: np.random.Generator, drawing: Drawing, materials: _Materials) -> Floats:
    """Linear light, (H, W, 3), not clipped, of every shape under one uneven illumination."""
    numbers = drawing.numbers
    side = numbers.shape[0]
    rows, columns = np.ogrid[:side, :side]
    radius = drawing.radius[numbers]
    down = np.clip((rows - drawing.centre[numbers, 0]) / radius, -1.5, 1.5)
    right = np.clip((columns - drawing.centre[numbers, 1]) / radius, -1.5, 1.5)
    slope = materials.slope[numbers]
    shading = 1.0 + slope[..., 0] * down + slope[..., 1] * right
    shading -= materials.roundness[numbers] * (0.5 * (down * down + right * right))

    fields = np.stack([field(rng, side) for _ in range(TEXTURES)])
    shift = materials.shift[numbers]
    texture = fields[
        materials.texture[numbers],
        (rows + shift[..., 0]) % side,
        (columns + shift[..., 1]) % side,
    ]
    shading = np.maximum(shading, 0.1) * np.exp(materials.contrast[numbers] * texture)

    lighting = blur(rng.normal(0.0, 1.0, (side, side, 1)).astype(np.float32), side / 6)[..., 0]
    lighting *= rng.uniform(0.0, 0.5) / max(float(lighting.std()), 1e-9)
    shading *= np.exp(lighting)

    mottle = materials.mottling[numbers] / (1.0 + np.exp(-4.0 * texture))
    colour = materials.colour[numbers]
    colour += (materials.other_colour[numbers] - colour) * mottle[..., None]
    colour *= shading[..., None]
    return colour
