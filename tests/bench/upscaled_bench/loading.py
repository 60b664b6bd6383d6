"""The first job's load of a model, beside spandrel's own load of the same file."""

# ruff: noqa: E402
from __future__ import annotations

from upscaled_models.memory import keep_freed_memory
from upscaled_models.threads import settle_waiting

settle_waiting()
keep_freed_memory()

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from upscaled_bench.networks import save_in_tiles, save_rrdb
from upscaled_bench.pipes import seconds
from upscaled_bench.table import print_table
from upscaled_models.engine import Settings
from upscaled_models.esrgan.architectures import MAIN_REGISTRY
from upscaled_models.esrgan.learnt import FOLDER
from upscaled_models.esrgan.precision import NAMES, choose_dtype
from upscaled_models.esrgan.upscaler import Upscaler
from upscaled_models.esrgan.weightsfile import read_weights

_ROUNDS = 5


def main() -> None:
    """Best of some rounds, in which all take turns, of a network by rows and of one in tiles."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, path in (
            ("RRDB, 23 blocks, by rows", save_rrdb(folder / "rrdb.safetensors")),
            ("SwinIR-S, in tiles", save_in_tiles(folder / "tiles.safetensors")),
        ):
            best = _best(path)
            rows.append(
                [
                    f"{title} ({path.stat().st_size / 1e6:.0f} MB)",
                    *(f"{best[kind]:.2f} s, {best[kind] / best['spandrel']:.1f}x" for kind in best),
                ]
            )
    dtype, _ = choose_dtype("auto", torch.device("cpu"), bits=8)
    print_table(
        f"from a weights file to a network that is ready, {NAMES[dtype]} on the processor",
        ["", "spandrel's own load", "the first worker", "the next workers"],
        rows,
    )


def _best(path: Path) -> dict[str, float]:
    upscaler = Upscaler(Settings(model_dir=path.parent, device="cpu"))

    def spandrel() -> None:
        MAIN_REGISTRY.load(read_weights(path))

    def ours() -> None:
        upscaler.preload(str(path))

    runs: dict[str, Callable[[], None]] = {"spandrel": spandrel, "first": ours, "again": ours}
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(_ROUNDS):
        shutil.rmtree(path.parent / FOLDER, ignore_errors=True)
        for kind, run in runs.items():
            best[kind] = min(best[kind], seconds(run))
            upscaler.free_memory()
    return best
