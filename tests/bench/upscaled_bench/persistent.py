"""What a persistent worker saves: the same pictures through one, and through a process each."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import orjson
import pyvips

from upscaled_bench.networks import save_rrdb
from upscaled_bench.pipes import RUN, WORKER, child, seconds
from upscaled_bench.table import print_table

_PICTURES = 8


def _make_pictures(folder: Path, side: int) -> list[Path]:
    """Smooth shapes with noise: what a PNG encoder finds neither trivial nor impossible."""
    rows, columns = np.mgrid[0:side, 0:side]
    paths = []
    for number in range(_PICTURES):
        random = np.random.default_rng(number)
        waves = 127 + 80 * np.sin(rows / (5 + number)) * np.cos(columns / 9)
        pixels = waves[..., None] + random.normal(0, 8, (side, side, 3))
        image = pyvips.Image.new_from_array(pixels.clip(0, 255).astype(np.uint8))
        paths.append(folder / f"{number}.png")
        image.write_to_file(str(paths[-1]))
    return paths


def _line(path: Path, output: Path, model: str) -> bytes:
    config = {"image_path": str(path), "output_path": str(output), "model": model}
    return orjson.dumps({"job_id": path.stem, "method": "esrgan", "config": config}) + b"\n"


def main() -> None:
    """Both ways from nothing to the last picture written, with a small network and a large one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _compare(folder, "compact-x4", 256, "compact-x4")
        _compare(folder, "RRDB, 23 blocks", 64, str(save_rrdb(folder / "rrdb.safetensors")))


def _compare(folder: Path, title: str, side: int, model: str) -> None:
    pictures = _make_pictures(folder, side)

    def through_one() -> None:
        with child(RUN) as pipe:
            for path in pictures:
                pipe.write(_line(path, folder / f"one-{path.name}", model))
            for path in pictures:
                pipe.wait_result(path.stem)

    def through_each() -> None:
        for path in pictures:
            with child([*WORKER, "--methods", "esrgan"]) as pipe:
                pipe.write(_line(path, folder / f"each-{path.name}", model))
                pipe.wait_result(path.stem)

    persistent, spawned = seconds(through_one), seconds(through_each)
    print_table(
        f"{title}: {_PICTURES} pictures of {side}x{side}, 4x, from a cold start to the last file",
        ["", "seconds", "a picture", "speed"],
        [
            ["a process a picture", f"{spawned:.1f}", f"{spawned / _PICTURES:.2f} s", "1.0x"],
            [
                "one persistent worker",
                f"{persistent:.1f}",
                f"{persistent / _PICTURES:.2f} s",
                f"{spawned / persistent:.1f}x",
            ],
        ],
    )
