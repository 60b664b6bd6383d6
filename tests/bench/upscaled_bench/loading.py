"""The first job's load of a model, beside spandrel's own load of the same file."""

# ruff: noqa: E402
from __future__ import annotations

from upscaled_models.allocator import keep_freed_memory
from upscaled_models.device.threads import settle_waiting

settle_waiting()
keep_freed_memory()

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from upscaled_bench.networks import save_in_tiles, save_rrdb
from upscaled_bench.pipes import seconds
from upscaled_bench.table import print_table
from upscaled_models.device.precision import NAMES, choose_dtype
from upscaled_models.engine import Settings
from upscaled_models.esrgan.architectures import MAIN_REGISTRY
from upscaled_models.esrgan.networks import Networks
from upscaled_models.esrgan.probecache import FOLDER
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
            own_wall, own_processor = best["spandrel's own load"]
            size = f"{path.stat().st_size / 1e6:.0f} MB"
            for kind, (wall, processor) in best.items():
                rows.append(
                    [
                        f"{title} ({size})",
                        kind,
                        f"{wall:.2f} s, {wall / own_wall:.1f}x",
                        f"{processor:.2f} s, {processor / own_processor:.1f}x",
                    ]
                )
    dtype, _ = choose_dtype("auto", torch.device("cpu"), bits=8)
    print_table(
        f"from a weights file to a network that is ready, {NAMES[dtype]} on the processor",
        ["", "", "seconds", "processor seconds"],
        rows,
    )


def _best(path: Path) -> dict[str, tuple[float, float]]:
    """The least seconds of each, and the least processor seconds."""
    upscaler = Networks(Settings(model_dir=path.parent, device="cpu"))
    dtype, _ = choose_dtype("auto", torch.device("cpu"), bits=8)

    def spandrel() -> None:
        MAIN_REGISTRY.load(read_weights(path))

    def for_a_small_picture() -> None:
        with upscaler._network(path, dtype):
            pass

    def for_any_picture() -> None:
        upscaler.preload(str(path))

    runs: dict[str, Callable[[], None]] = {
        "spandrel's own load": spandrel,
        "for a picture in one piece": for_a_small_picture,
        "for any picture, the first time": for_any_picture,
        "for any picture, later": for_any_picture,
    }
    best = dict.fromkeys(runs, (float("inf"), float("inf")))
    for _ in range(_ROUNDS):
        shutil.rmtree(path.parent / FOLDER, ignore_errors=True)
        for kind, run in runs.items():
            before = time.process_time()
            wall = seconds(run)
            processor = time.process_time() - before
            best[kind] = (min(best[kind][0], wall), min(best[kind][1], processor))
            upscaler.free_memory()
    return best
