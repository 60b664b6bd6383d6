"""Measure weight files of any architecture against nearest, bicubic and Lanczos.

python models/training/evaluate.py models/weights/compact-x4.safetensors --out .cache/card

prints a model card, in Markdown: PSNR and SSIM in RGB and in luma over pictures that training never
saw, whole and damaged by JPEG or noise, the worst picture, lines beside edges, and wrong pixels in
flat fields. `--out` keeps the card, with a sheet of crops side by side to look at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

# Run as a script, this file's own folder is on the path; the package is that folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.card import Evaluation, card
from training.enlargers import Enlarger, resamplers
from training.sheet import draw_sheet
from training.trials import CONDITIONS, pictures
from training.weightsfile import weights_file


def main(argv: Sequence[str] | None = None) -> None:
    """Print a card for each scale among the files, and keep it if a folder is given."""
    arguments = _arguments(argv)
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    networks = [weights_file(path, dtype) for path in arguments.weights]
    for scale in sorted({network.scale for network in networks}, reverse=True):
        enlargers = [*resamplers(scale), *(one for one in networks if one.scale == scale)]
        tried = pictures(arguments.pictures)
        evaluation = Evaluation.run(enlargers, tried, arguments.conditions)
        written = card(evaluation)
        print(written)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            (arguments.out / f"card-x{scale}.md").write_text(written, encoding="utf-8")
            draw_sheet(_few(enlargers), tried).save(arguments.out / f"sheet-x{scale}.png")


def _few(enlargers: list[Enlarger]) -> list[Enlarger]:
    """Those worth looking at: nearest for what there was to see, and not two plain blurs."""
    return [one for one in enlargers if one.name != "bicubic"]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description="Print model cards: how weight files do beside nearest, bicubic and Lanczos.",
    )
    add = parser.add_argument
    add("weights", type=Path, nargs="+", help="weight files that the worker can load")
    add("--out", type=Path, help="folder for the card and a sheet of crops for each scale")
    add("--pictures", type=Path, help="folder of further photographs to try")
    add(
        "--conditions",
        nargs="+",
        choices=list(CONDITIONS),
        default=list(CONDITIONS),
        help="what happens to the small pictures (default: each of them)",
    )
    add("--bf16", action="store_true", help="compute in bfloat16, not float32")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
