"""The picture bank: all training pictures, made once and kept on disk."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from training.degrade import choose_kernel, reduce_pictures
from training.pictures import RECIPE, make_picture


@dataclass(frozen=True)
class Bank:
    """Pictures to cut training pairs from."""

    pictures: NDArray[np.uint8]  # (pictures, side, side, 3), sRGB

    @classmethod
    def open(cls, folder: Path, seed: int, count: int, side: int, processes: int) -> Bank:
        """The bank these numbers name, made first where `folder` has none. Memory-mapped."""
        path = folder / f"pictures-{RECIPE}-{seed}-{count}x{side}.npy"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(path.name + ".partial")
            _make(unfinished, seed, count, side, processes)
            unfinished.replace(path)
        return cls(np.load(path, mmap_mode="r"))

    def pairs(
        self, rng: np.random.Generator, scale: int, batch: int, crop: int
    ) -> tuple[Tensor, Tensor]:
        """Small pictures (batch, 3, crop, crop), and large ones `scale` times as big, 0 to 1."""
        side = self.pictures.shape[1]
        large = crop * scale
        which = rng.integers(len(self.pictures), size=batch)
        rows, columns = rng.integers(side - large + 1, size=(2, batch))
        crops = np.stack(
            [
                _reoriented(self.pictures[n, y : y + large, x : x + large], way)
                for n, y, x, way in zip(
                    which, rows, columns, rng.integers(8, size=batch), strict=True
                )
            ]
        )
        truth = torch.from_numpy(crops).permute(0, 3, 1, 2).to(torch.float32) / 255.0
        return reduce_pictures(truth, scale, choose_kernel(rng)), truth


def _reoriented(picture: NDArray[np.uint8], way: int) -> NDArray[np.uint8]:
    """One of the eight ways to turn and mirror a square."""
    if way & 1:
        picture = picture[::-1]
    if way & 2:
        picture = picture[:, ::-1]
    if way & 4:
        picture = picture.transpose(1, 0, 2)
    return picture


def _make(path: Path, seed: int, count: int, side: int, processes: int) -> None:
    bank = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, side, side, 3))
    make = partial(make_picture, seed, side=side)
    print(f"making {count} pictures, once", flush=True)
    # Started afresh, not forked: a fork would copy the locks of torch's threads in any state.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, mp_context=context) as pool,
        tqdm(total=count, desc="pictures", unit="picture", disable=None) as progress,
    ):
        for index, picture in enumerate(pool.map(make, range(count))):
            bank[index] = picture
            progress.update()
    bank.flush()
