"""Measure weight files against Lanczos on four photographs that training never saw, and at edges.

For photographs: each is cropped to a multiple of the scale and reduced with Pillow's antialiased
BICUBIC; the network's enlargement and Pillow's LANCZOS one are rounded to 8 bits and compared with
it as PSNR over R, G and B, without a border of `scale` pixels. `edges.py` has the other two
measures: lines beside edges, and wrong outermost pixels in flat fields.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

# Run as a script, this file's own folder is on the path; the package is that folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.edges import field_table, lanczos, line_table, score_fields, score_lines
from training.measures import psnr
from training.network import Compact, enlarge, load_network
from training.validation import PHOTOGRAPHS

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Score:
    """PSNR of one photograph, in dB."""

    name: str
    lanczos: float
    network: float


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
