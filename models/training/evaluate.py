"""Measure weight files against Lanczos on four photographs that training never saw, and at edges.

For photographs: each is cropped to a multiple of the scale and reduced with Pillow's antialiased
BICUBIC; the network's enlargement and Pillow's LANCZOS one are rounded to 8 bits and compared with
it as PSNR over R, G and B, without a border of `scale` pixels. `edges.py` has the other two
measures: lines beside edges, and wrong outermost pixels in flat fields.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data

# Run as a script, this file's own folder is on the path; the package is that folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.edges import field_table, lanczos, line_table, score_fields, score_lines
from training.network import Compact, load_network

Pixels = NDArray[np.uint8]

PHOTOGRAPHS: dict[str, Callable[[], Pixels]] = {
    "astronaut": data.astronaut,
    "coffee": data.coffee,
    "chelsea": data.chelsea,
    "rocket": data.rocket,
}


@dataclass(frozen=True)
class Score:
    """PSNR of one photograph, in dB."""

    name: str
    lanczos: float
    network: float


def psnr(truth: Pixels, guess: Pixels, border: int) -> float:
    """Peak signal-to-noise ratio in dB of two (H, W, 3) pictures, without their `border`."""
    inside = slice(border, -border)
    difference = truth[inside, inside].astype(np.float64) - guess[inside, inside]
    error = float(np.mean(difference**2))
    return 10.0 * math.log10(255.0**2 / error) if error else math.inf


def enlarge(network: Compact, small: Pixels, dtype: torch.dtype) -> Pixels:
    """(H, W, 3) uint8 to (H * scale, W * scale, 3) uint8, in one piece."""
    pixels = torch.from_numpy(small).permute(2, 0, 1)[None].to(dtype) / 255.0
    with torch.inference_mode():
        large = network.to(dtype)(pixels).to(torch.float32)[0]
    rounded = (large.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return np.asarray(rounded.permute(1, 2, 0).numpy())


def score_photographs(network: Compact, dtype: torch.dtype = torch.float32) -> list[Score]:
    """One row for each of `PHOTOGRAPHS`, in their order."""
    scale = network.scale
    scores = []
    for name, photograph in PHOTOGRAPHS.items():
        pixels = photograph()
        height, width = (length // scale for length in pixels.shape[:2])
        truth = pixels[: height * scale, : width * scale]
        small = Image.fromarray(truth).resize((width, height), Image.Resampling.BICUBIC)
        size = (width * scale, height * scale)
        lanczos = np.asarray(small.resize(size, Image.Resampling.LANCZOS))
        guess = enlarge(network, np.array(small), dtype)
        scores.append(Score(name, psnr(truth, lanczos, scale), psnr(truth, guess, scale)))
    return scores


def table(title: str, scores: list[Score]) -> str:
    """The rows and their mean as a Markdown table."""
    mean = Score(
        "mean",
        sum(score.lanczos for score in scores) / len(scores),
        sum(score.network for score in scores) / len(scores),
    )
    lines = [f"| PSNR, dB | Lanczos | {title} | gain |", "|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.lanczos:.2f} | {row.network:.2f} | {row.network - row.lanczos:+.2f} |"
        for row in [*scores, mean]
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Print three tables for each weight file."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description="Print how weight files do beside Lanczos: PSNR on four photographs, lines "
        "beside edges, and flat fields.",
    )
    parser.add_argument(
        "weights", type=Path, nargs="+", help=".safetensors files that train.py wrote"
    )
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, not float32")
    arguments = parser.parse_args(argv)
    for path in arguments.weights:
        network = load_network(path).eval()
        dtype = torch.bfloat16 if arguments.bf16 else torch.float32
        print(table(path.stem, score_photographs(network, dtype)), end="\n\n")
        enlarged = partial(enlarge, network, dtype=dtype)
        plain = score_lines(lanczos(network.scale), network.scale)
        lines = score_lines(enlarged, network.scale)
        print(line_table(path.stem, plain, lines), end="\n\n")
        print(field_table(path.stem, score_fields(enlarged, network.scale)), end="\n\n")


if __name__ == "__main__":
    main()
