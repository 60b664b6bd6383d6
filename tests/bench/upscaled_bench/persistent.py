"""What a persistent worker saves: the same pictures through one, and through a process each."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import orjson
import pyvips

from upscaled_bench.pipes import RUN, WORKER, child, seconds
from upscaled_bench.table import print_table

_PICTURES = 8
_SIDE = 256


def _make_pictures(folder: Path) -> list[Path]:
    """Smooth shapes with noise: what a PNG encoder finds neither trivial nor impossible."""
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE]
    paths = []
    for number in range(_PICTURES):
        random = np.random.default_rng(number)
        waves = 127 + 80 * np.sin(rows / (5 + number)) * np.cos(columns / 9)
        pixels = waves[..., None] + random.normal(0, 8, (_SIDE, _SIDE, 3))
        image = pyvips.Image.new_from_array(pixels.clip(0, 255).astype(np.uint8))
        paths.append(folder / f"{number}.png")
        image.write_to_file(str(paths[-1]))
    return paths


def _line(path: Path, output: Path) -> bytes:
    config = {"image_path": str(path), "output_path": str(output)}
    return orjson.dumps({"job_id": path.stem, "method": "esrgan", "config": config}) + b"\n"


def main() -> None:
    """Both ways from nothing to the last picture written."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = _make_pictures(folder)

        def through_one() -> None:
            with child(RUN) as pipe:
                for path in pictures:
                    pipe.write(_line(path, folder / f"one-{path.name}"))
                for path in pictures:
                    pipe.wait_result(path.stem)

        def through_each() -> None:
            for path in pictures:
                with child([*WORKER, "--methods", "esrgan"]) as pipe:
                    pipe.write(_line(path, folder / f"each-{path.name}"))
                    pipe.wait_result(path.stem)

        persistent, spawned = seconds(through_one), seconds(through_each)
    print_table(
        f"{_PICTURES} pictures of {_SIDE}x{_SIDE}, 4x, from a cold start to the last file",
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
