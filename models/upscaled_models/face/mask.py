"""Which part of a face's square is replaced: an oval around the face, with soft edges."""

from __future__ import annotations

import numpy as np

from upscaled_models.face.faces import CROP_PX, Floats

# In pixels of the square. The eyes are at the height of 240, the mouth at 371; brows and chin of a
# usual face are at about 190 and 480. The oval ends inside the square, which so leaves no border.
_CENTRE = (CROP_PX / 2, 292.0)
_RADII = (204.0, 218.0)
# The exponent of the oval: 2 is an ellipse, more is closer to a rectangle.
_EXPONENT = 2.5
# The part of the radius over which the mask rises from 0 to 1.
_SOFT = 0.3


def mask_at(positions: Floats) -> Floats:
    """The mask, 0 to 1, at positions (..., 2) of the square in pixels; 0 outside the square."""
    across = np.abs(positions[..., 0] - np.float32(_CENTRE[0])) / np.float32(_RADII[0])
    down = np.abs(positions[..., 1] - np.float32(_CENTRE[1])) / np.float32(_RADII[1])
    radius = (_powered(across) + _powered(down)) ** np.float32(1 / _EXPONENT)
    rise = np.clip((1 - radius) / np.float32(_SOFT), 0, 1)
    # Along half a wave, so that no corner shows at either end.
    mask: Floats = 0.5 - 0.5 * np.cos(np.float32(np.pi) * rise)
    return mask


def _powered(values: Floats) -> Floats:
    """To the power of the exponent; NumPy's own takes ten times as long."""
    return values * values * np.sqrt(values)
