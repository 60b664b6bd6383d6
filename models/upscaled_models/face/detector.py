"""Finds the faces of a picture, turned by any angle.

The network sees upright faces best: of turned ones it misses small ones, and their points drift. So
it looks at the picture in four orientations, and then at each face once more, by itself: in four
orientations again, and at last upright, with enough pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upscaled_models.face.alignment import Similarity, align
from upscaled_models.face.detectorweights import read_weights
from upscaled_models.face.faces import CROP_PX, Face, FaceOptions, Points, chosen
from upscaled_models.face.reducedcopy import ReducedCopy
from upscaled_models.face.retinaface import Candidates, RetinaFace
from upscaled_models.face.sampling import sample, to_planes

# Pixels in which faces are looked for, upright and in each of the other orientations. Together they
# take less than a twentieth of the time of one face in GFPGAN in float32.
_UPRIGHT_PIXELS = 500_000
_TURNED_PIXELS = 200_000
# Small pictures are enlarged: the network finds faces from about 16 pixels on.
_MOST_ENLARGED = 2.0
# The lowest score of a place that is looked at again: small and turned faces have little more.
_CANDIDATE_SCORE = 0.1
# A picture of a crowd has hundreds of faces; a texture can have as many places that look like one.
_MOST_CANDIDATES = 400
_MOST_ANCHORS = 4000
# Less than this, seen from near, is no face.
_SEEN_SCORE = 0.5
# The side of the square in which a candidate is looked at again, and the face's part of it.
_SQUARE_PX = 112
_UPRIGHT_SQUARE_PX = 192
_FACE_SHARE = 0.55
# A face that turns out to be turned by more than this (in radians) is looked at once more.
_TURNED = math.radians(8)
_LOOKS = 2
# A face is not larger than its candidate by more than this.
_SMALLER = 0.7
# Boxes that share more than this part of their common area are one face.
_SAME = 0.4
# The same if one of the two lies in the other with more than this part of it.
_INSIDE = 0.75
# Pixels around a square that interpolation reads.
_MARGIN_PX = 3
# Pillow's word for how much larger than the result the picture stays in that first step.
_REDUCING_GAP = 1.5
# The farthest that the points of a face may be from those of an average one, in pixels of a square
# of 512. What is no face, and a face from the side, has its points elsewhere.
_FARTHEST_PX = 28.0


@dataclass(frozen=True)
class _Found:
    """A face in the pixels of the copy. box: left, top, right, bottom."""

    score: float
    box: tuple[float, float, float, float]
    points: Points

    @property
    def middle(self) -> complex:
        left, top, right, bottom = self.box
        return complex((left + right) / 2, (top + bottom) / 2)

    @property
    def side(self) -> float:
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


def find_faces(picture: ReducedCopy, options: FaceOptions) -> list[Face]:
    """All faces of a picture, the largest first, in pixels of the picture.

    Those that are not to be restored have a reason. Raises `JobError` if the detector's weights are
    missing.
    """
    network = _network()
    found = []
    for candidate in _candidates(network, picture.pixels):
        if candidate.side * picture.factor < options.min_face_px * _SMALLER:
            # It is only reported.
            face: _Found | None = candidate
        else:
            face = _looked_at_again(network, picture.pixels, candidate)
        if face is not None and face.score >= options.threshold:
            found.append(face)
    return chosen([_face(one, picture.factor) for one in _merged(found)], options)


@cache
def _network() -> RetinaFace:
    return RetinaFace(read_weights())


def _candidates(network: RetinaFace, pixels: NDArray[np.uint8]) -> list[_Found]:
    """Places that look like faces in one of four orientations, the surest first."""
    height, width, _ = pixels.shape
    corners = (0j, complex(width), complex(width, height), complex(0, height))
    copy = Image.fromarray(pixels)
    found: list[_Found] = []
    for turns, corner in enumerate(corners):
        budget = _TURNED_PIXELS if turns else _UPRIGHT_PIXELS
        scale = min(_MOST_ENLARGED, math.sqrt(budget / (width * height)))
        # Each copy is made from the one before, which is not larger than it needs to be.
        copy = _resized(copy, width * scale, height * scale)
        [candidates] = network(np.rot90(np.asarray(copy), turns)[None], _CANDIDATE_SCORE)
        found += _moved(candidates, Similarity(1j**turns / scale, corner))
    found.sort(key=lambda one: -one.score)
    return _merged(found[:_MOST_ANCHORS])[:_MOST_CANDIDATES]


def _looked_at_again(
    network: RetinaFace, pixels: NDArray[np.uint8], candidate: _Found
) -> _Found | None:
    """The same face, found in pictures of its own; None if it is not seen there."""
    half = _SQUARE_PX / 2 * (1 + 1j)
    straight = candidate.side / _FACE_SHARE / _SQUARE_PX
    # In four orientations, and in that of its points, which may be right.
    turns = (1, 1j, -1, -1j, _turn(candidate))
    squares = [
        Similarity(straight * turn, candidate.middle - straight * turn * half) for turn in turns
    ]
    face = _surest_in(network, pixels, squares, _SQUARE_PX)
    for _ in range(_LOOKS):
        if face is None:
            break
        before = face
        face = _surest_in(network, pixels, [_upright(face)], _UPRIGHT_SQUARE_PX)
        if face is not None and abs(np.angle(_turn(face) / _turn(before))) < _TURNED:
            break
    return face


def _upright(face: _Found) -> Similarity:
    """From the square in which the face is upright to the picture."""
    back = align(face.points)[0].inverse()
    return Similarity(back.factor * (CROP_PX / _UPRIGHT_SQUARE_PX), back.shift)


def _turn(face: _Found) -> complex:
    """By how much the face is turned, as a number of the length 1."""
    factor = align(face.points)[0].inverse().factor
    return factor / abs(factor)


def _surest_in(
    network: RetinaFace,
    pixels: NDArray[np.uint8],
    squares: Sequence[Similarity],
    side: int,
) -> _Found | None:
    """The surest face in the middle of a square; None if there is none.

    squares: from squares of `side` pixels to the picture.
    """
    crops = np.stack([_crop(pixels, square, side) for square in squares])
    surest = None
    for square, candidates in zip(squares, network(crops, _SEEN_SCORE), strict=True):
        middles = (candidates.boxes[:, :2] + candidates.boxes[:, 2:]) / 2
        near = np.abs(middles - side / 2).max(axis=1) < side / 4
        if not near.any():
            continue
        best = int(np.argmax(np.where(near, candidates.scores, 0)))
        [one] = _moved(Candidates(*(values[best : best + 1] for values in candidates)), square)
        surest = one if surest is None else max(surest, one, key=_quality)
    return surest


def _quality(found: _Found) -> float:
    """How sure a face is. One that is turned can have the full score, but its points are off."""
    return found.score - align(found.points)[1] / CROP_PX


def _crop(pixels: NDArray[np.uint8], square: Similarity, side: int) -> NDArray[np.uint8]:
    """A square of the picture, (side, side, 3); beyond the picture its last pixels continue."""
    height, width, _ = pixels.shape
    corners = square.apply(np.array([[0, 0], [side, 0], [0, side], [side, side]], float))
    margin = _MARGIN_PX * max(1.0, square.scale)
    # One pixel at least, also if the square is beside the picture.
    left, top = (
        min(max(0, math.floor(low - margin)), limit - 1)
        for low, limit in zip(corners.min(axis=0), (width, height), strict=True)
    )
    right, bottom = (
        max(min(limit, math.ceil(high + margin)), start + 1)
        for high, limit, start in zip(
            corners.max(axis=0), (width, height), (left, top), strict=True
        )
    )
    window = Image.fromarray(pixels[top:bottom, left:right])
    if square.scale > 1:
        window = _resized(window, window.width / square.scale, window.height / square.scale)
    in_window = Similarity(square.factor, square.shift - complex(left, top))
    values = sample(
        to_planes(np.asarray(window, np.float32)),
        in_window.of_pixels(0, 0, side, side),
        (right - left, bottom - top),
    )
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _resized(picture: Image.Image, width: float, height: float) -> Image.Image:
    size = (max(1, round(width)), max(1, round(height)))
    # With a gap, a large picture is first reduced by a whole number, which is fast.
    return picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)


def _moved(candidates: Candidates, to_picture: Similarity) -> list[_Found]:
    cosine, sine = abs(to_picture.factor.real), abs(to_picture.factor.imag)
    points = to_picture.apply(candidates.points)
    middles = to_picture.apply((candidates.boxes[:, :2] + candidates.boxes[:, 2:]) / 2)
    halves = (candidates.boxes[:, 2:] - candidates.boxes[:, :2]) / 2
    # Around the ellipse in the box: around the turned box it would be up to twice as large.
    reach = np.sqrt((halves * cosine) ** 2 + (halves[:, ::-1] * sine) ** 2)
    low, high = middles - reach, middles + reach
    return [
        _Found(
            float(score),
            (float(low[i, 0]), float(low[i, 1]), float(high[i, 0]), float(high[i, 1])),
            points[i],
        )
        for i, score in enumerate(candidates.scores)
    ]


def _merged(found: Sequence[_Found]) -> list[_Found]:
    """Without those that are part of a surer one, the surest first."""
    kept: list[_Found] = []
    boxes = np.empty((0, 4))
    for one in sorted(found, key=lambda one: (-one.score, one.box)):
        box = np.array(one.box)
        sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        area = np.prod(box[2:] - box[:2])
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        is_same = shared > _SAME * (areas + area - shared)
        is_inside = shared > _INSIDE * np.minimum(areas, area)
        if not (is_same | is_inside).any():
            kept.append(one)
            boxes = np.concatenate((boxes, box[None]))
    return kept


def _face(found: _Found, factor: int) -> Face:
    left, top, right, bottom = (side * factor for side in found.box)
    distance = align(found.points)[1]
    return Face(
        (left, top, right - left, bottom - top),
        found.score,
        found.points * factor,
        why="points do not fit a face" if distance > _FARTHEST_PX else None,
    )
