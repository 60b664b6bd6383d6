"""Restored faces into a picture whose rows pass by from the top down.

Only the difference that a network makes is added, under a mask with soft edges:
`background + strength * mask * warp(restored - crop)`, with the crop taken from the same
background. So a network that changes nothing changes no pixel, nothing changes outside the mask,
and a face with more pixels than the network sees keeps its fine detail.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from upscaled_imaging.luma import LUMA
from upscaled_imaging.resample import resample
from upscaled_imaging.rows import Picture
from upscaled_models.face.alignment import Similarity, align
from upscaled_models.face.faces import CROP_PX, Face, Floats, Restore
from upscaled_models.face.heldrows import HeldRows
from upscaled_models.face.mask import mask_at
from upscaled_models.face.sampling import sample, to_planes
from upscaled_models.picture import RowBlocks

# Pixels around the crop that interpolation reads.
_MARGIN_PX = 3
# Pixels of a face that are pasted at once; a dozen floats are computed for each.
_STRIP_PIXELS = 1 << 19
# A pixel of the picture that is larger than the crop's is the mean of as many parts to a side. With
# one part, more than half of a photograph's grain stays in a restored face, with two less than a
# third, and three are not better.
_PARTS = 2


@dataclass(frozen=True)
class _Patch:
    """A face in the picture that rows are pasted into. to_crop: from its pixels to the crop's.

    left, top, right, bottom: the part of the picture that the crop covers.
    """

    to_crop: Similarity
    left: int
    top: int
    right: int
    bottom: int

    @property
    def picture_px(self) -> float:
        """Pixels of the picture per pixel of the crop."""
        return 1 / self.to_crop.scale


class FacePaste:
    """Pastes the faces of one picture into its rows."""

    def __init__(
        self,
        faces: Sequence[Face],
        picture: Picture,
        restore: Restore,
        *,
        scale: tuple[float, float] = (1.0, 1.0),
        offset: tuple[float, float] = (0.0, 0.0),
        strength: float = 1.0,
    ) -> None:
        """picture: of the rows. scale, offset: a point of the source times `scale` (across, down)
        minus `offset` is the point of the picture. strength: 0 changes nothing, 1 is the network's
        face. Faces with a `why` are left alone.
        """
        self._picture = picture
        self._restore = restore
        self._strength = strength
        self._patches: list[_Patch] = []
        # As they were given; those that lie outside the picture have a reason.
        self.faces: list[Face] = []
        for face in faces:
            patch = None
            if face.why is None:
                points = face.points * np.array(scale) - np.array(offset)
                patch = _patch(align(points)[0], picture)
                if patch is None:
                    face = replace(face, why="cropped off")  # noqa: PLW2901
            if patch is not None:
                self._patches.append(patch)
            self.faces.append(face)

    def rows(self, blocks: Iterable[np.ndarray]) -> RowBlocks:
        """The picture's rows, whole and in order, with the faces; holds the rows of open faces.

        Blocks are (h, W, C), uint8 or uint16. Faces are restored from the top down, each in the
        picture with the faces before it. Raises what `restore` raises.
        """
        if not self._strength:
            yield from blocks
            return
        pending = deque(sorted(self._patches, key=lambda patch: (patch.bottom, patch.left)))
        held = HeldRows()
        for block in blocks:
            highest = min((patch.top for patch in pending), default=self._picture.height)
            held.add(block, to_change=highest < held.bottom + len(block))
            while pending and pending[0].bottom <= held.bottom:
                self._paste(pending.popleft(), held)
            highest = min((patch.top for patch in pending), default=self._picture.height)
            yield from held.take(min(highest, held.bottom))

    def _paste(self, patch: _Patch, held: HeldRows) -> None:
        crop = self._crop(patch, held)
        restored = self._restore(crop)
        if restored.shape != crop.shape or not np.isfinite(restored).all():
            raise ValueError(f"a restored face has the shape {restored.shape}, or no finite values")
        change = to_planes(np.clip(restored, 0, 1) - crop)
        if self._picture.bands < 3:
            luma = torch.tensor(LUMA).view(1, 3, 1, 1)
            change = (change * luma).sum(1, keepdim=True)
        side = max(1, round(_PARTS * CROP_PX * patch.picture_px))
        if side < CROP_PX:
            change = functional.interpolate(
                change, (side, side), mode="bicubic", antialias=True, align_corners=False
            )
        count = max(1, _STRIP_PIXELS // (patch.right - patch.left))
        for first, rows in held.between(patch.top, patch.bottom):
            for start in range(0, len(rows), count):
                part = rows[start : start + count, patch.left : patch.right, : self._colours]
                self._add(change, patch, first + start, part)

    @property
    def _colours(self) -> int:
        return self._picture.bands - self._picture.has_alpha

    def _add(self, change: Tensor, patch: _Patch, top: int, part: np.ndarray) -> None:
        """Add the change to pixels (h, w, C) of the picture, from the row `top` on."""
        height, width, _ = part.shape
        positions = patch.to_crop.of_pixels(patch.left, top, width, height)
        mask = mask_at(positions)
        if not mask.any():
            return
        moved = _sampled(change, positions, patch.to_crop)
        most = np.float32(np.iinfo(part.dtype).max)
        weights = mask * (np.float32(self._strength) * most)
        values = part + weights[:, :, None] * moved
        part[:] = np.clip(np.floor(values + np.float32(0.5)), 0, most).astype(part.dtype)

    def _crop(self, patch: _Patch, held: HeldRows) -> Floats:
        """The face upright, (512, 512, 3), 0 to 1. Outside the picture its last pixels continue."""
        strips: Iterator[np.ndarray] = (
            rows[:, patch.left : patch.right, : self._colours]
            for _, rows in held.between(patch.top, patch.bottom)
        )
        size = (patch.right - patch.left, patch.bottom - patch.top)
        if patch.picture_px > 1:
            target = (
                max(1, round(size[0] / patch.picture_px)),
                max(1, round(size[1] / patch.picture_px)),
            )
            strips = resample(strips, source=size, target=target, bits=16)
        window = np.concatenate(list(strips))
        pixels = window.astype(np.float32) / np.float32(np.iinfo(window.dtype).max)
        back = patch.to_crop.inverse()
        in_window = Similarity(back.factor, back.shift - complex(patch.left, patch.top))
        sampled = sample(to_planes(pixels), in_window.of_pixels(0, 0, CROP_PX, CROP_PX), size)
        crop = np.clip(sampled, 0, 1)
        return np.ascontiguousarray(np.broadcast_to(crop, (CROP_PX, CROP_PX, 3)))


def _sampled(change: Tensor, positions: Floats, to_crop: Similarity) -> Floats:
    """The change at the centres of pixels; of pixels larger than the crop's, the mean of parts."""
    whole = (CROP_PX, CROP_PX)
    if to_crop.scale <= 1:
        return sample(change, positions, whole)
    moved: Floats = np.zeros((*positions.shape[:2], change.shape[1]), np.float32)
    middles = [(number + 0.5) / _PARTS - 0.5 for number in range(_PARTS)]
    for x, y in product(middles, middles):
        offset = to_crop.factor * complex(x, y)
        moved += sample(change, positions + np.array([offset.real, offset.imag], np.float32), whole)
    moved /= np.float32(_PARTS**2)
    return moved


def _patch(to_crop: Similarity, picture: Picture) -> _Patch | None:
    """The patch of a face; None if it lies outside the picture."""
    corners = np.array([[0, 0], [CROP_PX, 0], [0, CROP_PX], [CROP_PX, CROP_PX]], float)
    corners = to_crop.inverse().apply(corners)
    margin = _MARGIN_PX * max(1.0, 1 / to_crop.scale)
    left, top = (max(0, math.floor(low - margin)) for low in corners.min(axis=0))
    limits = (picture.width, picture.height)
    right, bottom = (
        min(limit, math.ceil(high + margin))
        for limit, high in zip(limits, corners.max(axis=0), strict=True)
    )
    if left >= right or top >= bottom:
        return None
    return _Patch(to_crop, left, top, right, bottom)
