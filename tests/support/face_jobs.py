"""Jobs whose faces are given, so that no detector runs, with a network whose result is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import pyvips

from upscaled_models.engine import Outcome
from upscaled_models.face import restoration
from upscaled_models.face.faces import Face, FaceOptions, Floats
from upscaled_models.face.networks import FaceNetwork

Restored = Callable[[Floats], Floats]


def give_faces(monkeypatch: pytest.MonkeyPatch, faces: Sequence[Face]) -> list[FaceOptions]:
    """Every picture has these faces. Returns what they were looked for with."""
    asked: list[FaceOptions] = []

    def find_faces(_copy: object, options: FaceOptions) -> list[Face]:
        asked.append(options)
        return list(faces)

    monkeypatch.setattr(restoration, "find_faces", find_faces)
    return asked


def restore_as(monkeypatch: pytest.MonkeyPatch, restored: Restored) -> list[Floats]:
    """Replace all networks. Returns the faces that they were given."""
    crops: list[Floats] = []

    def restore(_network: FaceNetwork, crop: Floats) -> Floats:
        crops.append(crop)
        return restored(crop)

    monkeypatch.setattr(FaceNetwork, "restore", restore)
    return crops


def negative(crop: Floats) -> Floats:
    return 1 - crop


def same(crop: Floats) -> Floats:
    return crop


def read(outcome: Outcome) -> np.ndarray:
    """The pixels of the output, (h, w, C)."""
    image = pyvips.Image.new_from_file(str(outcome.output_path))
    pixels: np.ndarray = image.numpy()
    return pixels.reshape(image.height, image.width, image.bands)
