"""Training pairs: crops of the bank, turned and mirrored, and their reductions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.bank import Bank, Source
from training.damage import damage_pictures
from training.degrade import KERNELS, reduce_pictures
from upscaled_imaging.luma import LUMA

AT_ONCE = 16
"""Steps whose crops are made together: a device waits for many small tasks longer than for few."""

SWAPPED = 0.25
"""The share of crops whose red, green and blue are exchanged, of a source that does this."""


class Crops:
    """The pairs of every step, on one device. The seed and the step's number decide them."""

    def __init__(
        self,
        bank: Bank,
        *,
        scale: int,
        batch: int,
        crop: int,
        seed: int,
        damaged: bool,
        device: torch.device,
    ) -> None:
        """`crop` is the side of the small pictures; `damaged` spoils them as `damage.py` says."""
        self._sources = bank.sources
        self._pictures = [
            torch.from_numpy(np.array(source.pictures)).to(device) for source in bank.sources
        ]
        self._scale, self._batch, self._crop = scale, batch, crop
        self._seed, self._damaged, self._device = seed, damaged, device
        self._made = -1
        self._small = self._truth = torch.empty(0)

    def pairs(self, step: int) -> tuple[Tensor, Tensor]:
        """Small pictures (batch, 3, crop, crop), and large ones `scale` times as big, 0 to 1.

        Every crop is reduced as a whole picture is. So the network learns what lies at a picture's
        border, beyond which its convolutions see zeros.
        """
        together, place = divmod(step, AT_ONCE)
        if together != self._made:
            self._make(np.random.default_rng([self._seed, 1, together]))
            self._made = together
        chosen = slice(place * self._batch, (place + 1) * self._batch)
        return self._small[chosen], self._truth[chosen]

    def _make(self, rng: np.random.Generator) -> None:
        count, length = AT_ONCE * self._batch, self._crop * self._scale
        shares = np.array([source.share for source in self._sources])
        which = rng.choice(len(shares), size=count, p=shares / shares.sum())
        truth = torch.empty(count, 3, length, length, device=self._device)
        kernels = np.empty(count, np.int64)
        for index, source in enumerate(self._sources):
            places = np.flatnonzero(which == index)
            cut = self._cut(rng, source, self._pictures[index], len(places), length)
            cut = cut.permute(0, 3, 1, 2).to(torch.float32) / 255.0
            softened = torch.from_numpy(rng.random(len(places)) < source.softened).to(self._device)
            cut[softened] = _soften_colours(cut[softened])
            truth[self._on_device(places)] = cut
            kernels[places] = rng.choice(len(KERNELS), size=len(places), p=source.kernels)
        small = reduce_pictures(truth, self._scale, self._on_device(kernels))
        self._small = damage_pictures(rng, small) if self._damaged else small
        self._truth = truth

    def _cut(
        self, rng: np.random.Generator, source: Source, pictures: Tensor, count: int, length: int
    ) -> Tensor:
        """`count` crops of a source, (count, length, length, 3) uint8."""
        across = pictures.shape[1] - length + 1
        candidates = [
            _Corners(
                self._on_device(rng.integers(len(pictures), size=count)),
                self._on_device(rng.integers(across, size=count)),
                self._on_device(rng.integers(across, size=count)),
            )
            for _ in range(source.candidates)
        ]
        corners = candidates[0]
        if len(candidates) > 1:
            busy = torch.stack([_busyness(one.cut(pictures, length)) for one in candidates])
            best = busy.argmax(0)
            corners = _Corners(
                *(
                    torch.stack(values).gather(0, best[None])[0]
                    for values in zip(*candidates, strict=True)
                )
            )
        crops = corners.cut(pictures, length, self._on_device(rng.integers(8, size=count)))
        if source.swaps_colours:
            order = np.tile(np.arange(3), (count, 1))
            swapped = rng.random(count) < SWAPPED
            order[swapped] = rng.permuted(order[swapped], axis=1)
            order_here = self._on_device(order)[:, None, None].expand(crops.shape)
            crops = crops.gather(-1, order_here)
        return crops

    def _on_device(self, values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(self._device)


class _Corners(NamedTuple):
    """Where crops begin: the number of the picture, the top and the left, (N,) each."""

    number: Tensor
    top: Tensor
    left: Tensor

    def cut(self, pictures: Tensor, length: int, way: Tensor | None = None) -> Tensor:
        """(N, length, length, 3), each turned and mirrored in one of eight ways, 0 to 7."""
        steps = torch.arange(length, device=pictures.device)
        y, x = self.top[:, None] + steps, self.left[:, None] + steps
        if way is None:
            return pictures[self.number[:, None, None], y[:, :, None], x[:, None]]
        y = torch.where((way & 1)[:, None] > 0, y.flip(1), y)
        x = torch.where((way & 2)[:, None] > 0, x.flip(1), x)
        turned = (way & 4)[:, None, None] > 0
        down = torch.where(turned, y[:, None], y[:, :, None])
        right = torch.where(turned, x[:, :, None], x[:, None])
        return pictures[self.number[:, None, None], down, right]


def _busyness(crops: Tensor) -> Tensor:
    """The mean difference of green at neighbouring pixels, on every other row."""
    green = crops[:, ::2, :, 1].to(torch.float32)
    return green.diff(dim=2).abs().mean(dim=(1, 2))


def _soften_colours(pictures: Tensor) -> Tensor:
    """Colour averaged over 2 x 2 pixels, brightness kept: as nearly every camera and JPEG does."""
    weights = pictures.new_tensor(LUMA).view(1, 3, 1, 1)
    luma = (pictures * weights).sum(dim=1, keepdim=True)
    small = functional.avg_pool2d(pictures - luma, 2)
    colour = functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    return ((luma + colour).clamp(0.0, 1.0) * 255.0).round() / 255.0
