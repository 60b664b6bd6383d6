"""The faces of a picture, and which of them a job restores.

Positions are continuous, in pixels of the source: the upper left corner of the picture is (0, 0),
and the centre of its first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Floats = NDArray[np.float32]

# Takes an upright face, (512, 512, 3) RGB, 0 to 1, and returns it restored, of the same kind.
Restore = Callable[[Floats], Floats]

# The side of the square in which a network sees a face.
CROP_PX = 512

Why = Literal[
    "too small", "not the largest", "more than max_faces", "points do not fit a face", "cropped off"
]


@dataclass(frozen=True, eq=False)
class Face:
    """A face that was found.

    box: x, y, width, height; parts of it may lie outside the picture. score: of the detector, 0 to
    1. points: (5, 2), x and y of the eye, the eye, the nose, the corner of the mouth, the corner of
    the mouth; of each pair first the one that is on the left if the face is upright. why: the
    reason why it is not restored, or None.
    """

    box: tuple[float, float, float, float]
    score: float
    points: Points
    why: Why | None = None

    @property
    def side(self) -> float:
        """The longer side of the box."""
        return max(self.box[2:])


@dataclass(frozen=True)
class FaceOptions:
    """Which faces a job restores.

    threshold: the lowest score of a face, above 0, at most 1. min_face_px: the shortest longer side
    of a box. max_faces: the largest are taken.
    """

    threshold: float = 0.97
    only_largest: bool = False
    min_face_px: int = 24
    max_faces: int = 100


def chosen(faces: Sequence[Face], options: FaceOptions) -> list[Face]:
    """All faces, the largest first, with the reason of each that is not to be restored."""
    most = 1 if options.only_largest else options.max_faces
    taken = 0
    marked = []
    for face in sorted(faces, key=lambda face: (-face.side, face.box)):
        why = face.why
        if why is None and face.side < options.min_face_px:
            why = "too small"
        if why is None:
            taken += 1
            if taken > most:
                why = "not the largest" if options.only_largest else "more than max_faces"
        marked.append(replace(face, why=why))
    return marked
