"""The picture bank: all training pictures, made once and kept on disk."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.degrade import GRAPHIC_SHARES
from training.graphics import GRAPHICS_RECIPE, make_field, make_graphic
from training.photographs import PHOTOGRAPHS, SHORT_SIDES, cut_squares, fetch_photographs
from training.pictures import RECIPE, make_picture

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Mixture:
    """How many of the crops are of each kind, and how often each of `KERNELS` reduces scenes and
    photographs. A network trained for one kernel alone sharpens too much or too little behind the
    others; antialiased bicubic is what most software does and what is measured."""

    scenes: float
    graphics: float
    fields: float
    photographs: float
    kernels: tuple[float, ...]


MIXTURES = {
    2: Mixture(0.40, 0.16, 0.04, 0.40, (0.9, 0.04, 0.03, 0.02, 0.01)),
    4: Mixture(0.28, 0.18, 0.04, 0.50, (0.75, 0.1, 0.08, 0.05, 0.02)),
}
"""By scale; of another one, that of 4."""

FIELDS, FIELD_SIDE = 256, 256
"""Fields of one colour: in them the outermost pixels count, which a graphic seldom shows."""


@dataclass(frozen=True)
class Source:
    """Pictures of one kind."""

    pictures: NDArray[np.uint8]  # (pictures, side, side, 3), sRGB
    share: float  # of all crops
    kernels: tuple[float, ...]  # how often each of `KERNELS` reduces them
    candidates: int = 1  # crops to choose the busiest of: sky and blur teach little
    swaps_colours: bool = False  # exchange red, green and blue: few photographs, more colours
    softened: float = 0.0  # share of crops whose colours are softer than their brightness


@dataclass(frozen=True)
class Bank:
    """Pictures to cut training pairs from."""

    sources: tuple[Source, ...]

    @classmethod
    def open(
        cls, folder: Path, mixture: Mixture, *, seed: int, count: int, side: int, processes: int
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
                    mixture.scenes,
                    mixture.kernels,
                    softened=0.7,
                ),
                Source(
                    _kept(
                        folder / f"graphics-{GRAPHICS_RECIPE}-{seed}-{graphics}x{side}.npy",
                        lambda: _drawn(graphic, graphics, "graphics", processes),
                    ),
                    mixture.graphics,
                    GRAPHIC_SHARES,
                ),
                Source(
                    np.stack([make_field(seed, index, FIELD_SIDE) for index in range(FIELDS)]),
                    mixture.fields,
                    GRAPHIC_SHARES,
                ),
                Source(
                    _kept(folder / photograph_file(side), lambda: _photographs(folder, side)),
                    mixture.photographs,
                    mixture.kernels,
                    candidates=2,
                    swaps_colours=True,
                ),
            )
        )


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
