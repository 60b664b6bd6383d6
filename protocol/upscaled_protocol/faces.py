"""The faces that a job has found, as its result lists them."""

from __future__ import annotations

from pydantic import Field

from upscaled_protocol.wiremodels import WorkerMessage


class Point(WorkerMessage):
    """A position in pixels: the upper left corner of the picture is 0, 0."""

    x: float
    y: float


class Box(WorkerMessage):
    """A rectangle in pixels, which may reach beyond the picture."""

    x: float
    y: float
    width: float = Field(ge=0)
    height: float = Field(ge=0)


class Face(WorkerMessage):
    """A face that was found. Positions are in pixels of the input, after it was turned upright."""

    box: Box
    score: float = Field(ge=0, le=1, description="How sure the detector is.")
    points: list[Point] = Field(
        description="The eyes, the nose, the corners of the mouth; of each pair first the one that "
        "is on the left if the face is upright."
    )
    restored: bool
    why: str | None = Field(None, description="Why it was not restored.")
