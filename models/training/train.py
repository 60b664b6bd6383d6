"""Train a bundled model: make and fetch pictures, fit the network, save it.

python models/training/train.py --scale 4 --out models/weights/compact-x4.safetensors
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

# Run as a script, this file's own folder is on the path; the package is that folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# The log's figures are the evaluation's.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "bench"))

from training.bank import MIXTURES, Bank
from training.crops import Crops
from training.log import Log
from training.network import load_network, save_network
from training.run import Recipe, Run
from training.validation import Validation

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "training"

LOG_STEPS = 100
"""Between two lines of the log."""

KEPT_STEPS = 10_000
"""Between two sets of weights that are kept: the last are not always the best."""


class Stop:
    """True once SIGTERM has come. The step in progress is finished first."""

    def __init__(self) -> None:
        self._asked = False

    def __bool__(self) -> bool:
        return self._asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM as a request to stop, and restore what it did before afterwards."""
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked = True


@dataclass(frozen=True)
class Intervals:
    """How often a run is saved and measured."""

    checkpoint_s: float
    validate_steps: int  # 0: never


def train(run: Run, crops: Crops, checkpoint: Path, intervals: Intervals, stop: Stop) -> None:
    """Take the run to its last step, or until `stop`.

    As often as `intervals` says, and at the end, the run is saved to `checkpoint` and the averaged
    weights beside it; those of every `KEPT_STEPS` steps are kept under the step's number. The log
    beside it has a line every `LOG_STEPS` steps; some of them have the figures of the averaged
    weights.
    """
    log = Log(checkpoint.with_suffix(".jsonl"), run.step)
    log.begin(run)
    validation = Validation(run.recipe.scale) if intervals.validate_steps else None
    progress = tqdm(
        total=run.recipe.steps, initial=run.step, unit="step", disable=None, smoothing=0.02
    )
    # On a GPU the clock counts: nothing else runs there.
    clock = time.process_time if run.device.type == "cpu" else time.monotonic
    saved, used = time.monotonic(), clock()
    losses = torch.zeros(2, device=run.device)
    while run.step < run.recipe.steps and not stop:
        losses += torch.stack((run.advance(crops), losses.new_ones(())))
        before, used = used, clock()
        run.seconds += used - before
        progress.update()
        if run.step % LOG_STEPS == 0:
            total, count = losses.tolist()
            losses.zero_()
            line: dict[str, Any] = {
                "step": run.step,
                "loss": round(total / count, 6),
                "seconds": round(run.seconds, 1),
            }
            if validation and run.step % intervals.validate_steps == 0:
                line |= asdict(validation.score(run.average))
            log.write(line)
        if run.step % KEPT_STEPS == 0:
            kept = checkpoint.with_name(f"{checkpoint.stem}-{run.step}.safetensors")
            save_network(run.average, kept)
        if time.monotonic() - saved >= intervals.checkpoint_s:
            saved = time.monotonic()
            _save(run, checkpoint)
    progress.close()
    _save(run, checkpoint)


def _save(run: Run, checkpoint: Path) -> None:
    run.save(checkpoint)
    save_network(run.average, checkpoint.with_suffix(".safetensors"))


def keep_freed_memory() -> None:
    """Ask glibc not to return freed tensors to the kernel: a page fault each costs a third."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3  # from malloc.h
        mallopt(m_mmap_threshold, 1 << 30)
        mallopt(m_trim_threshold, (1 << 31) - 1)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _bfloat16_is_fast(device: torch.device) -> bool:
    """False if a processor would have to emulate bfloat16, which is ten times slower."""
    return device.type == "cuda" or (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=(
            "Train a compact network on drawn pictures and free photographs. "
            "SIGTERM saves a checkpoint and exits; --resume continues from it."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--scale", type=int, required=True, help="enlargement factor")
    add("--out", type=Path, required=True, help="weights to write (.safetensors) at the last step")
    add("--start", type=Path, help="weights to begin with, for a further stage of training")
    add("--resume", action="store_true", help="continue from the checkpoint, if there is one")
    add("--damaged", action="store_true", help="learn from blurred, noisy and JPEG pictures")
    add("--steps", type=int, default=200_000, help="optimizer steps")
    add("--features", type=int, default=48, help="channels of each inner layer")
    add("--depth", type=int, default=10, help="inner convolutions")
    add("--batch", type=int, default=32, help="crops per step")
    add("--crop", type=int, default=48, help="side of the small crops, pixels")
    add("--peak-rate", type=float, default=1e-3, help="highest learning rate")
    add("--pictures", type=int, default=160, help="scenes in the bank")
    add("--side", type=int, default=768, help="side of each picture, pixels")
    add("--seed", type=int, default=1, help="of the pictures, the network and the crops")
    add("--device", default=_device(), help="where it is trained: cpu, or cuda")
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    add("--processes", type=int, default=os.cpu_count(), help="processes that draw the pictures")
    add("--cache", type=Path, default=CACHE, help="folder for pictures, checkpoints and logs")
    add("--checkpoint-s", type=float, default=180.0, help="seconds between two checkpoints")
    add("--validate-steps", type=int, default=1000, help="steps between two validations, or 0")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says."""
    arguments = _arguments(argv)
    recipe = Recipe(
        scale=arguments.scale,
        seed=arguments.seed,
        features=arguments.features,
        depth=arguments.depth,
        steps=arguments.steps,
        batch=arguments.batch,
        crop=arguments.crop,
        peak_rate=arguments.peak_rate,
        pictures=arguments.pictures,
        side=arguments.side,
        damaged=arguments.damaged,
        start=_sha256(arguments.start) if arguments.start else None,
    )
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    bank = Bank.open(
        arguments.cache,
        MIXTURES.get(recipe.scale, MIXTURES[4]),
        seed=recipe.seed,
        count=recipe.pictures,
        side=recipe.side,
        processes=arguments.processes,
    )
    crops = Crops(
        bank,
        scale=recipe.scale,
        batch=recipe.batch,
        crop=recipe.crop,
        seed=recipe.seed,
        damaged=recipe.damaged,
        device=device,
    )
    run = Run(recipe, device, bfloat16=_bfloat16_is_fast(device))
    if arguments.start:
        run.begin_with(load_network(arguments.start))
    checkpoint = arguments.cache / f"{arguments.out.stem}.checkpoint"
    if arguments.resume and checkpoint.exists():
        run.restore(checkpoint)
        print(f"going on from step {run.step}", flush=True)
    if device.type == "cuda":
        run.record(crops)
    stop = Stop()
    intervals = Intervals(arguments.checkpoint_s, arguments.validate_steps)
    with stop.listening():
        train(run, crops, checkpoint, intervals, stop)
    if run.step < recipe.steps:
        print(f"stopped at step {run.step} of {recipe.steps}; --resume continues", flush=True)
        return
    save_network(run.average, arguments.out)
    hours = run.seconds / 3600
    print(f"{arguments.out}: {run.step} steps, {hours:.2f} hours on {device}", flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    main()
