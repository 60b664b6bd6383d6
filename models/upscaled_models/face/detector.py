"""Finds the faces of a picture, turned by any angle.

The network sees upright faces best: of turned ones it misses small ones, and their points drift. So
it looks at the picture in four orientations, and then at each face once more, by itself: in four
orientations again, and at last upright, with enough pixels. In a picture of a group it looks for
smaller faces too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from upscaled_models.face.alignment import Similarity, align
from upscaled_models.face.copies import Copies
from upscaled_models.face.detectorweights import read_weights
from upscaled_models.face.faces import CROP_PX, Face, FaceOptions, Points, chosen
from upscaled_models.face.reducedcopy import ReducedCopy
from upscaled_models.face.retinaface import Candidates, RetinaFace

# Pixels in which faces are looked for, upright and in each of the other orientations. Together they
# take less than a twentieth of the time of one face in GFPGAN in float32.
_UPRIGHT_PIXELS = 500_000
_TURNED_PIXELS = 200_000
# If so many faces were found, smaller ones are looked for in all pixels of the copy, in tiles. Such
# pictures often show people farther away, and the time is small beside that of these faces.
_GROUP = 3
_TILE_PX = 704
# A larger face than this is found without tiles.
_TILE_OVERLAP_PX = 64
# Small pictures are enlarged: the network finds faces from about 16 pixels on.
_MOST_ENLARGED = 2.0
# The lowest score of a place that is looked at again. Faces with 10 to 14 pixels have less: of such
# small places the surest few are looked at too.
_CANDIDATE_SCORE = 0.1
_WEAK_SCORE = 0.03
_WEAK_SIDE_PX = 20
_MOST_WEAK = 12
# A picture of a crowd has hundreds of faces; a texture can have as many places that look like one.
_MOST_CANDIDATES = 400
_MOST_ANCHORS = 4000
# Less than this, seen from near, is no face.
_SEEN_SCORE = 0.5
# The side of the square in which a candidate is looked at again, and the face's part of it.
_SQUARE_PX = 112
_UPRIGHT_SQUARE_PX = 192
_FACE_SHARE = 0.55
# Squares are given to the network together, which takes a third of the time.
_BATCH_PIXELS = 500_000
# A face that turns out to be turned by more than this (in radians) is looked at once more.
_TURNED = math.radians(8)
_LOOKS = 2
# A face is not larger than its candidate by more than this.
_SMALLER = 0.7
# Boxes that share more than this part of their common area are one face.
_SAME = 0.4
# The same if one of the two lies in the other with more than this part of it.
_INSIDE = 0.75
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
    copies = Copies(picture.pixels)
    least_side = options.min_face_px * _SMALLER / picture.factor

    def sure_among(candidates: Sequence[_Found]) -> list[_Found]:
        # Smaller ones are only reported.
        found = [one for one in candidates if one.side < least_side]
        near = [one for one in candidates if one.side >= least_side]
        found += _looked_at_again(network, copies, near)
        return _merged([one for one in found if one.score >= options.threshold])

    found = sure_among(_candidates(network, copies))
    if len(found) >= _GROUP:
        others = [one for one in _small_candidates(network, copies) if not _is_in_one(one, found)]
        found = _merged(found + sure_among(others))
    return chosen([_face(one, picture.factor) for one in found], options)


@cache
def _network() -> RetinaFace:
    return RetinaFace(read_weights())


def _candidates(network: RetinaFace, copies: Copies) -> list[_Found]:
    """Places that look like faces in one of four orientations, the surest first."""
    width, height = copies.size
    corners = (0j, complex(width), complex(width, height), complex(0, height))
    found: list[_Found] = []
    for turns, corner in enumerate(corners):
        budget = _TURNED_PIXELS if turns else _UPRIGHT_PIXELS
        scale = min(_MOST_ENLARGED, math.sqrt(budget / (width * height)))
        copy = copies.whole(scale)
        [candidates] = network(np.rot90(np.asarray(copy), turns)[None], _WEAK_SCORE)
        sides = (candidates.boxes[:, 2:] - candidates.boxes[:, :2]).max(axis=1)
        kept = (candidates.scores >= _CANDIDATE_SCORE) | (sides < _WEAK_SIDE_PX)
        candidates = Candidates(*(values[kept] for values in candidates))
        found += _moved(candidates, Similarity(1j**turns / scale, corner))
    found.sort(key=lambda one: -one.score)
    merged = _merged(found[:_MOST_ANCHORS])
    strong = sum(one.score >= _CANDIDATE_SCORE for one in merged)
    return merged[: min(strong + _MOST_WEAK, _MOST_CANDIDATES)]


def _small_candidates(network: RetinaFace, copies: Copies) -> list[_Found]:
    """Places that look like small upright faces; none if the picture was not reduced before."""
    width, height = copies.size
    if width * height <= _UPRIGHT_PIXELS:
        return []
    found: list[_Found] = []
    for top in range(0, height, _TILE_PX - _TILE_OVERLAP_PX):
        for left in range(0, width, _TILE_PX - _TILE_OVERLAP_PX):
            [candidates] = network(copies.tile(left, top, _TILE_PX)[None], _CANDIDATE_SCORE)
            found += _moved(candidates, Similarity(1, complex(left, top)))
    found.sort(key=lambda one: -one.score)
    return _merged(found[:_MOST_ANCHORS])[:_MOST_CANDIDATES]


def _is_in_one(candidate: _Found, faces: Sequence[_Found]) -> bool:
    """True if its middle lies in the box of one of the faces."""
    x, y = candidate.middle.real, candidate.middle.imag
    boxes = (face.box for face in faces)
    return any(left < x < right and top < y < bottom for left, top, right, bottom in boxes)


def _looked_at_again(
    network: RetinaFace, copies: Copies, candidates: Sequence[_Found]
) -> list[_Found]:
    """The faces, found again in pictures of their own, without those that are not seen there."""
    half = _SQUARE_PX / 2 * (1 + 1j)
    groups = []
    for one in candidates:
        straight = one.side / _FACE_SHARE / _SQUARE_PX
        # In four orientations, and in that of its points, which may be right.
        turns = (1, 1j, -1, -1j, _turn(one))
        groups.append([Similarity(straight * t, one.middle - straight * t * half) for t in turns])
    turned = [one for one in _surest(network, copies, groups, _SQUARE_PX) if one is not None]
    done: list[_Found] = []
    for look in range(_LOOKS):
        seen = _surest(network, copies, [[_upright(one)] for one in turned], _UPRIGHT_SQUARE_PX)
        both = [(one, before) for one, before in zip(seen, turned, strict=True) if one is not None]
        turned = []
        for one, before in both:
            is_upright = abs(np.angle(_turn(one) / _turn(before))) < _TURNED
            (done if is_upright or look == _LOOKS - 1 else turned).append(one)
    return done


def _upright(face: _Found) -> Similarity:
    """From the square in which the face is upright to the picture."""
    back = align(face.points)[0].inverse()
    return Similarity(back.factor * (CROP_PX / _UPRIGHT_SQUARE_PX), back.shift)


def _turn(face: _Found) -> complex:
    """By how much the face is turned, as a number of the length 1."""
    factor = align(face.points)[0].inverse().factor
    return factor / abs(factor)


def _surest(
    network: RetinaFace, copies: Copies, groups: Sequence[Sequence[Similarity]], side: int
) -> list[_Found | None]:
    """For each group of squares the surest face in the middle of one; None if there is none.

    groups: similarities from squares of `side` pixels to the picture.
    """
    squares = [(number, square) for number, group in enumerate(groups) for square in group]
    surest: list[_Found | None] = [None] * len(groups)
    at_once = _BATCH_PIXELS // side**2
    for start in range(0, len(squares), at_once):
        batch = squares[start : start + at_once]
        crops = np.stack([copies.crop(square, side) for _, square in batch])
        for (number, square), candidates in zip(batch, network(crops, _SEEN_SCORE), strict=True):
            middles = (candidates.boxes[:, :2] + candidates.boxes[:, 2:]) / 2
            near = np.abs(middles - side / 2).max(axis=1) < side / 4
            if not near.any():
                continue
            best = int(np.argmax(np.where(near, candidates.scores, 0)))
            [one] = _moved(Candidates(*(values[best : best + 1] for values in candidates)), square)
            before = surest[number]
            surest[number] = one if before is None else max(before, one, key=_quality)
    return surest


def _quality(found: _Found) -> float:
    """How sure a face is. One that is turned can have the full score, but its points are off."""
    return found.score - align(found.points)[1] / CROP_PX


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
