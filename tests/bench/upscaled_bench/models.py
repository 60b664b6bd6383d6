"""How good models are: weights files beside nearest, bicubic and Lanczos.

Prints a model card, in Markdown: PSNR and SSIM in RGB and in luma over pictures that training never
saw, whole and damaged by JPEG or noise, the worst picture, lines beside edges, and wrong pixels in
flat fields.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from upscaled_bench.evaluation.automatic import automatic
from upscaled_bench.evaluation.card import Evaluation, card
from upscaled_bench.evaluation.enlargers import Enlarger, resamplers
from upscaled_bench.evaluation.sheet import draw_sheet
from upscaled_bench.evaluation.trials import CONDITIONS, pictures
from upscaled_bench.evaluation.weightsfile import weights_file
from upscaled_models.catalog import Catalog, default_model_dir
from upscaled_protocol.errors import JobError

_EXAMPLES = """
If both models of a pair that `auto` chooses from are given (compact-x4 and compact-x4-clean),
`auto` is measured too, and the card says how often it chose which.

examples:
  upscaled bench models
  upscaled bench models compact-x4 weights/4x_mine.pth --out card
  upscaled bench models compact-x4 --pictures photographs --conditions clean "JPEG 50"
"""


def main(argv: Sequence[str] = ()) -> None:
    """Print a card for each scale among the models, and keep it if a folder is given."""
    arguments = parser()
    options = arguments.parse_args(argv)
    catalog, model_dir = Catalog.load(), default_model_dir()
    names = options.model or [model.name for model in catalog if model.bundled]
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    try:
        paths = [catalog.locate(name, model_dir) for name in names]
        networks = [weights_file(path, dtype) for path in paths]
    except JobError as error:
        arguments.error(error.message)
    tried = pictures(options.pictures)
    for scale in sorted({network.scale for network in networks}, reverse=True):
        ours = [network for network in networks if network.scale == scale]
        chosen = automatic(ours)
        enlargers = [*resamplers(scale), *ours, *([chosen] if chosen else [])]
        evaluation = Evaluation.run(enlargers, tried, options.conditions)
        written = card(evaluation)
        print(written)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / f"card-x{scale}.md").write_text(written, encoding="utf-8")
            draw_sheet(_few(enlargers), tried).save(options.out / f"sheet-x{scale}.png")


def _few(enlargers: list[Enlarger]) -> list[Enlarger]:
    """Those that the sheet shows: nearest for what there was to see, and not two plain blurs."""
    return [one for one in enlargers if one.name != "bicubic"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled bench models",
        description="Print model cards: how models do beside nearest, bicubic and Lanczos.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = arguments.add_argument
    add(
        "model",
        nargs="*",
        metavar="MODEL",
        help="names of `upscaled models list`, or weights files (default: the bundled models)",
    )
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
    return arguments
