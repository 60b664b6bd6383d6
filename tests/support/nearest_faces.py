"""What a job of the stand-in finds in any picture if its config has `faces: true`."""

from __future__ import annotations

from upscaled_protocol.faces import Box, Face, Point

_POINTS = ((4, 6), (12, 6), (8, 11), (5, 15), (11, 15))


def _face(left: float, why: str | None = None) -> Face:
    return Face(
        box=Box(x=left, y=8, width=16, height=20),
        score=0.99,
        points=[Point(x=left + x, y=8 + y) for x, y in _POINTS],
        restored=why is None,
        why=why,
    )


FACES = [_face(8), _face(40, "too small")]
