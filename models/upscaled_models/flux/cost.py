"""`python -m upscaled_models.flux.cost`: the operations of a picture, and its least possible time.

torch counts the operations on modules of the real size without weights, so the figures are those of
the code that runs. A card's least time is the longer of its time for the operations and its time to
read the weights, at the maker's peak figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from upscaled_models.flux.files import Files
from upscaled_models.flux.libraries import AutoencoderKL, FluxTransformer2DModel
from upscaled_models.flux.text import T5_LENGTHS
from upscaled_models.flux.tiles import tile_offsets, tile_side
from upscaled_protocol.optionvalues import above_zero, count

# Bytes of the published Q8_0 file, and per weight in 16 bits.
_STORED_BYTES = 12_708_281_504
_EXPANDED_BYTES_PER_WEIGHT = 2
_GRID = 16


@dataclass(frozen=True)
class Cost:
    """Operations (a multiplication and an addition are two) and weights, for one tile."""

    call: int  # one model call
    encode: int
    decode: int
    weights: int  # numbers in the transformer


def tile_cost(side: int) -> Cost:
    """The cost of a tile of `side` pixels with the shipped configs."""
    nowhere = Path("nowhere")
    files = Files(nowhere, *[nowhere] * 6)
    fields = files.config("transformer")
    with torch.device("meta"):
        autoencoder = AutoencoderKL(**files.config("vae"))
        transformer = FluxTransformer2DModel(**fields)
        pixels = torch.zeros(1, 3, side, side)
        latents = torch.zeros(1, autoencoder.config.latent_channels, side // 8, side // 8)
    return Cost(
        call_operations(fields, side),
        _count(lambda: autoencoder.encode(pixels).latent_dist.mean),
        _count(lambda: autoencoder.decode(latents).sample),
        sum(value.numel() for value in transformer.parameters()),
    )


def call_operations(fields: Mapping[str, Any], side: int) -> int:
    """Operations of one model call for one tile, of a transformer with that config."""
    tokens, text = (side // _GRID) ** 2, T5_LENGTHS[0]
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**fields)
        config = transformer.config
        given = {
            "hidden_states": torch.zeros(1, tokens, config.in_channels),
            "encoder_hidden_states": torch.zeros(1, text, config.joint_attention_dim),
            "pooled_projections": torch.zeros(1, config.pooled_projection_dim),
            "timestep": torch.zeros(1),
            "guidance": torch.zeros(1),
            "img_ids": torch.zeros(tokens, 3),
            "txt_ids": torch.zeros(text, 3),
        }
        return _count(lambda: transformer(**given, return_dict=False)[0])


def count_tiles(width: int, height: int, side: int) -> int:
    """Tiles of a picture of that output size."""
    side = tile_side(side, _GRID)
    padded = (-(-length // _GRID) * _GRID for length in (width, height))
    across, down = (len(tile_offsets(length, side, _GRID)) for length in padded)
    return across * down


def _count(run: Callable[[], Tensor]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def main(argv: Sequence[str] | None = None) -> int:
    """Print the cost of a picture; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m upscaled_models.flux.cost", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--width", type=count, default=4096, help="output pixels")
    parser.add_argument("--height", type=count, default=4096)
    parser.add_argument("--tile-size", type=count, default=512)
    parser.add_argument("--steps", type=count, default=20)
    parser.add_argument("--batch", type=count, default=4, help="tiles per model call")
    parser.add_argument("--tflops", type=above_zero, default=165.0, help="the card's, in bfloat16")
    parser.add_argument("--gb-s", type=above_zero, default=1008.0, help="the card's memory")
    options = parser.parse_args(argv)
    cost = tile_cost(options.tile_size)
    tiles = count_tiles(options.width, options.height, options.tile_size)
    calls = tiles * options.steps
    total = tiles * (cost.encode + cost.decode) + calls * cost.call
    expanded = cost.weights * _EXPANDED_BYTES_PER_WEIGHT
    seconds = {
        name: max(options.batch * cost.call / options.tflops / 1e12, size / options.gb_s / 1e9)
        for name, size in (("16 bits", expanded), ("Q8_0", _STORED_BYTES))
    }
    rows = [
        ("tiles", f"{tiles}"),
        ("model calls per tile", f"{options.steps}"),
        ("model calls for the picture, tiles one by one", f"{calls}"),
        ("a model call for one tile", f"{cost.call / 1e12:.2f} TFLOP"),
        ("a tile's encoding and decoding", f"{(cost.encode + cost.decode) / 1e12:.2f} TFLOP"),
        ("the picture", f"{total / 1e15:.1f} PFLOP"),
        ("of that the transformer", f"{100 * calls * cost.call / total:.1f} %"),
        ("weights read per call, in 16 bits", f"{expanded / 1e9:.1f} GB"),
        ("weights read per call, as stored in Q8_0", f"{_STORED_BYTES / 1e9:.1f} GB"),
    ]
    for name, floor in seconds.items():
        rows += [
            (f"floor of a call for {options.batch} tiles, {name}", f"{floor:.3f} s"),
            (f"floor of the picture, {name}", f"{floor * calls / options.batch:.0f} s"),
        ]
    for label, value in rows:
        sys.stdout.write(f"{label:48}{value:>14}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
