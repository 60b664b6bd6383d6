"""The picture bank: all training pictures, made once and kept on disk."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from training.damage import damage_picture
from training.degrade import (
    GRAPHIC_SHARES,
    PHOTOGRAPHIC_SHARES,
    choose_kernel,
    reduce_pictures,
)
from training.graphics import GRAPHICS_RECIPE, make_graphic
from training.photographs import PHOTOGRAPHS, SHORT_SIDES, cut_squares, fetch_photographs
from training.pictures import RECIPE, make_picture

Picture = NDArray[np.uint8]

SCENE_SHARE, GRAPHIC_SHARE, PHOTOGRAPH_SHARE = 0.3, 0.2, 0.5


@dataclass(frozen=True)
class Source:
    """Pictures of one kind."""

    pictures: NDArray[np.uint8]  # (pictures, side, side, 3), sRGB
    share: float  # of all crops
    kernels: tuple[float, ...]  # how often each of `KERNELS` reduces them
    candidates: int = 1  # crops to choose the busiest of: sky and blur teach little
    swaps_colours: bool = False  # exchange red, green and blue: few photographs, more colours


@dataclass(frozen=True)
class Bank:
    """Pictures to cut training pairs from."""

    sources: tuple[Source, ...]
    damaged: bool = False  # spoil the small pictures, as `damage.py` says

    @classmethod
    def open(
        cls, folder: Path, seed: int, count: int, side: int, processes: int, *, damaged: bool
    ) -> Bank:
        """The bank these numbers name, made first if `folder` has none. Memory-mapped.

        `count` scenes, half as many graphics, and the photographs, `side` pixels square.
        """
        folder.mkdir(parents=True, exist_ok=True)
        graphics = max(1, count // 2)
        scene = partial(make_picture, seed, side=side)
        graphic = partial(make_graphic, seed, side=side)
        return cls(
            (
                Source(
                    _kept(
                        folder / f"pictures-{RECIPE}-{seed}-{count}x{side}.npy",
                        lambda: _drawn(scene, count, "scenes", processes),
                    ),
                    SCENE_SHARE,
                    PHOTOGRAPHIC_SHARES,
                ),
                Source(
                    _kept(
                        folder / f"graphics-{GRAPHICS_RECIPE}-{seed}-{graphics}x{side}.npy",
                        lambda: _drawn(graphic, graphics, "graphics", processes),
                    ),
                    GRAPHIC_SHARE,
                    GRAPHIC_SHARES,
                ),
                Source(
                    _kept(folder / photograph_file(side), lambda: _photographs(folder, side)),
                    PHOTOGRAPH_SHARE,
                    PHOTOGRAPHIC_SHARES,
                    candidates=2,
                    swaps_colours=True,
                ),
            ),
            damaged,
        )

    def pairs(
        self, rng: np.random.Generator, scale: int, batch: int, crop: int
    ) -> tuple[Tensor, Tensor]:
        """Small pictures (batch, 3, crop, crop), and large ones `scale` times as big, 0 to 1.

        Every crop is reduced as a whole picture is. So the network learns what lies at a picture's
        border, beyond which its convolutions see zeros.
        """
        shares = [source.share for source in self.sources]
        small, large = [], []
        for which in rng.choice(len(shares), size=batch, p=np.divide(shares, sum(shares))):
            source = self.sources[which]
            truth = _tensor(_crop(rng, source, crop * scale))
            kernel = choose_kernel(rng, source.kernels)
            reduced = reduce_pictures(truth, scale, kernel)
            small.append(damage_picture(rng, reduced) if self.damaged else reduced)
            large.append(truth)
        return torch.cat(small), torch.cat(large)


def _crop(rng: np.random.Generator, source: Source, length: int) -> Picture:
    side = source.pictures.shape[1]
    best, most = None, -1.0
    for _ in range(source.candidates):
        number = rng.integers(len(source.pictures))
        y, x = rng.integers(side - length + 1, size=2)
        crop = source.pictures[number, y : y + length, x : x + length]
        busy = _busyness(crop) if source.candidates > 1 else 0.0
        if best is None or busy > most:
            best, most = crop, busy
    assert best is not None
    if source.swaps_colours and rng.random() < 0.25:
        best = best[..., rng.permutation(3)]
    return _reoriented(best, int(rng.integers(8)))


def _busyness(crop: Picture) -> float:
    """The mean difference of green at neighbouring pixels, on every other row."""
    green = crop[::2, :, 1].astype(np.int16)
    return float(np.abs(np.diff(green, axis=1)).mean())


def _tensor(crop: Picture) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W), 0 to 1."""
    pixels = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)
    return pixels[None].to(torch.float32) / 255.0


def _reoriented(picture: Picture, way: int) -> Picture:
    """One of the eight ways to turn and mirror a square."""
    if way & 1:
        picture = picture[::-1]
    if way & 2:
        picture = picture[:, ::-1]
    if way & 4:
        picture = picture.transpose(1, 0, 2)
    return picture


def photograph_file(side: int) -> str:
    sizes = "-".join(map(str, SHORT_SIDES))
    return f"photographs-{len(PHOTOGRAPHS)}-{sizes}-{side}.npy"


def _photographs(folder: Path, side: int) -> Iterable[Picture]:
    paths = fetch_photographs(folder)
    return [square for path in paths for square in cut_squares(path, side)]


def _drawn(
    make: Callable[[int], Picture], count: int, name: str, processes: int
) -> Iterable[Picture]:
    """`count` pictures by `make`, in their order, from several processes."""
    # Started afresh, not forked: a fork would copy the locks of torch's threads in any state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        made = pool.map(make, range(count))
        return list(tqdm(made, desc=name, total=count, unit="picture", disable=None))


def _kept(path: Path, make: Callable[[], Iterable[Picture]]) -> NDArray[np.uint8]:
    """The pictures in the file `path`, made first if it is missing; a reader never sees half."""
    if not path.exists():
        print(f"making {path.name}, once", flush=True)
        unfinished = path.with_name(path.name + ".partial")
        with unfinished.open("wb") as file:
            np.save(file, np.stack(list(make())))
        unfinished.replace(path)
    pictures: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pictures
