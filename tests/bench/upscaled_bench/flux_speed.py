"""FLUX: what is off unless asked for, how much faster it is, and what it costs in quality.

A job on a replica with the block cache at several thresholds, beside the job without; and compiled
blocks beside the same ones as they are. The weights are random: how far pictures differ is no more
than a hint of how far real ones would.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import torch

from upscaled_bench.flux_random import random_transformer
from upscaled_bench.flux_replicas import install_upscaler, write_replica
from upscaled_bench.one_job import Surroundings
from upscaled_bench.photograph import write_photograph
from upscaled_bench.pipes import seconds
from upscaled_bench.table import print_table
from upscaled_models.engine import Settings
from upscaled_models.esrgan.out_of_memory import free_caches
from upscaled_models.flux.engine import FluxEngine
from upscaled_models.flux.text import T5_LENGTHS, Embeddings
from upscaled_models.flux.transformer import Placement, Transformer
from upscaled_protocol.configs import FluxConfig

# More blocks than of print_job's, so that what comes after the first is most of a call.
BLOCKS = {"num_layers": 4, "num_single_layers": 8}
_ROUNDS = 3


class _Listening(Surroundings):
    """Hears how many calls were cut short."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = ""

    def warn(self, text: str) -> None:
        self.heard = text


def print_block_cache(
    transformer: Mapping[str, Any],
    thresholds: Sequence[float] = (0.1, 0.3, 0.5),
    steps: int = 20,
) -> None:
    """A job's time and picture for each threshold."""
    with tempfile.TemporaryDirectory() as name:
        replica = write_replica(Path(name) / "models", transformer=transformer)
        picture = write_photograph(Path(name) / "in.png", 256, 192)
        output = Path(name) / "out.png"
        config = FluxConfig(
            image_path=str(picture),
            output_path=str(output),
            upscale_model=install_upscaler(replica.folder),
            steps=steps,
        )
        engine = FluxEngine(Settings(model_dir=replica.folder))
        engine.start()

        def job(threshold: float) -> tuple[float, str, np.ndarray]:
            heard = _Listening()
            given = config.model_copy(update={"block_cache": threshold})
            spent = seconds(lambda: engine.run(given, heard))
            return spent, heard.heard, pyvips.Image.new_from_file(str(output)).numpy()

        job(0.0)  # loads
        plain_s, _, plain = job(0.0)
        table = [["0 (off)", "none", f"{plain_s:.2f}", "1.00x", ""]]
        for threshold in thresholds:
            spent, heard, pixels = job(threshold)
            cut_short = heard.removeprefix("block_cache: ").partition(" model")[0]
            speed, apart = f"{plain_s / spent:.2f}x", f"{_psnr(plain, pixels):.1f} dB"
            table.append([f"{threshold:g}", cut_short, f"{spent:.2f}", speed, apart])
        engine.close()
    print_table(
        f"block cache: a job on a replica, 256x192 to 1024x768, {steps} steps",
        ["block_cache", "calls cut short", "seconds", "speed", "PSNR to off"],
        table,
    )


def print_compiled(
    config: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    *,
    batches: Sequence[int],
    placements: Sequence[Placement] = ("expanded", "stored"),
    tile: int = 512,
) -> None:
    """Model calls of compiled blocks beside those of the same blocks as they are."""
    table = []
    for placement in placements:
        start = time.perf_counter()
        transformer = random_transformer(config, device, dtype, placement)
        plain_load_s = time.perf_counter() - start
        plain = [_call(transformer, config, tile, batch) for batch in batches]
        del transformer
        free_caches()
        start = time.perf_counter()
        transformer = random_transformer(config, device, dtype, placement, compiled=True)
        compiling_s = time.perf_counter() - start - plain_load_s
        assert transformer.not_compiled is None, transformer.not_compiled
        for batch, (plain_s, expected) in zip(batches, plain, strict=True):
            spent, result = _call(transformer, config, tile, batch)
            apart = ((result - expected).abs().max() / expected.abs().max()).item()
            row = [placement, f"{compiling_s:.0f}", str(batch), f"{plain_s:.3f}", f"{spent:.3f}"]
            table.append([*row, f"{plain_s / spent:.2f}x", f"{apart:.1e}"])
        del transformer
        free_caches()
    print_table(
        f"compiled blocks, tiles of {tile} pixels on {device}",
        ["weights", "s to compile", "tiles", "s a call", "compiled", "speed", "largest difference"],
        table,
    )


def _call(
    transformer: Transformer, config: Mapping[str, Any], tile: int, batch: int
) -> tuple[float, torch.Tensor]:
    """Seconds of a call at best, and what it predicts."""
    generator = torch.Generator().manual_seed(batch)
    latents = torch.randn(
        batch, config["in_channels"] // 4, tile // 8, tile // 8, generator=generator
    ).to(transformer.device)
    embeddings = Embeddings(
        torch.randn(1, T5_LENGTHS[0], config["joint_attention_dim"], generator=generator),
        torch.randn(1, config["pooled_projection_dim"], generator=generator),
    )

    def call() -> torch.Tensor:
        return transformer.predict(latents, 0.4, 3.5, embeddings).cpu()

    result = call()
    return min(seconds(call) for _ in range(_ROUNDS)), result


def _psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = float(np.square(first.astype(np.float64) - second).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
