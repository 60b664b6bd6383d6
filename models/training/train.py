"""Train a bundled model from nothing but a seed: make pictures, fit the network, save it.

python models/training/train.py --scale 4 --out models/weights/compact-x4.safetensors
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

# Run as a script, this file's own folder is on the path; the package is that folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.bank import Bank
from training.network import Compact, save_network

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "training"

WARM_UP_STEPS = 500
"""Adam's averages are noise in its first steps; the learning rate rises linearly over these."""

AVERAGING = 0.999
"""Decay of the weight average a step: about the last thousand steps count."""

SOFTNESS = 0.04
"""Errors below this (of 1.0) count by their square, as PSNR does, and larger ones linearly: a few
hard edges would otherwise outweigh all of the texture."""

LOG_SECONDS = 30.0
"""Between two log lines, where no terminal shows the bar."""


@dataclass(frozen=True)
class Recipe:
    """All that decides the result, apart from the code and the versions of the libraries."""

    scale: int
    seed: int
    features: int
    depth: int
    steps: int
    batch: int
    crop: int
    peak_rate: float
    pictures: int
    side: int


@dataclass
class Run:
    """A network in training and all that a resumed run needs."""

    recipe: Recipe
    network: Compact
    average: Compact
    optimizer: torch.optim.Adam
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def begin(cls, recipe: Recipe) -> Run:
        torch.manual_seed(recipe.seed)
        network = Compact(recipe.scale, recipe.features, recipe.depth)
        optimizer = torch.optim.Adam(network.parameters(), lr=recipe.peak_rate, betas=(0.9, 0.99))
        return cls(recipe, network, copy.deepcopy(network), optimizer)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        torch.save(
            {
                "recipe": asdict(self.recipe),
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
            },
            partial,
        )
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from `path`. Raises ValueError where it belongs to another recipe."""
        saved = torch.load(path, weights_only=True)
        if saved["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} was made with other settings: {saved['recipe']}")
        self.network.load_state_dict(saved["network"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds = saved["step"], saved["seconds"]

    def advance(self, bank: Bank) -> Tensor:
        """One step of the optimizer; returns its loss. The step number alone seeds its crops."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 1, self.step])
        small, truth = bank.pairs(rng, recipe.scale, recipe.batch, recipe.crop)
        small = small.contiguous(memory_format=torch.channels_last)
        # Compared before the pixel shuffle, where both sides lie in memory as the network leaves
        # them: (N, h, w, channels), which also spares the shuffle and its gradient.
        wanted = functional.pixel_unshuffle(truth, recipe.scale)
        wanted = wanted - small.repeat_interleave(recipe.scale**2, dim=1)
        with torch.autocast("cpu", torch.bfloat16):
            detail = self.network.detail(small)
        loss = functional.smooth_l1_loss(
            detail.float().permute(0, 2, 3, 1).contiguous(),
            wanted.permute(0, 2, 3, 1).contiguous(),
            beta=SOFTNESS,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(self.step, recipe)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        decay = min(AVERAGING, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.network.parameters()), 1 - decay
            )
        self.step += 1
        return loss.detach()


def _rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine down to zero at the last step."""
    warm_up = min(WARM_UP_STEPS, recipe.steps // 10 + 1)
    if step < warm_up:
        return recipe.peak_rate * (step + 1) / warm_up
    through = (step - warm_up) / max(recipe.steps - warm_up, 1)
    return recipe.peak_rate * 0.5 * (1.0 + math.cos(math.pi * through))


def train(run: Run, bank: Bank, checkpoint: Path, checkpoint_s: float) -> None:
    """Take the run to its last step, saving to `checkpoint` every `checkpoint_s` seconds."""
    terminal = sys.stderr.isatty()
    progress = tqdm(
        total=run.recipe.steps, initial=run.step, unit="step", disable=not terminal, smoothing=0.02
    )
    now = saved = logged = time.monotonic()
    smooth = 0.0
    while run.step < run.recipe.steps:
        loss = float(run.advance(bank))
        smooth = loss if not smooth else smooth + 0.005 * (loss - smooth)
        elapsed, now = time.monotonic() - now, time.monotonic()
        run.seconds += elapsed
        progress.update()
        if terminal and run.step % 100 == 0:
            progress.set_postfix(loss=f"{smooth:.5f}")
        if not terminal and now - logged >= LOG_SECONDS:
            logged = now
            print(f"step {run.step}/{run.recipe.steps} loss {smooth:.5f}", flush=True)
        if now - saved >= checkpoint_s:
            saved = now
            run.save(checkpoint)
    progress.close()
    run.save(checkpoint)


def keep_freed_memory() -> None:
    """Ask glibc not to return freed tensors to the kernel: a page fault each costs a third."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3  # from malloc.h
        mallopt(m_mmap_threshold, 1 << 30)
        mallopt(m_trim_threshold, (1 << 31) - 1)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=(
            "Train a compact network on procedurally made pictures, on the CPU. "
            "The defaults reproduce the bundled models, with one seed."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--scale", type=int, required=True, help="enlargement factor")
    add("--out", type=Path, required=True, help="weights to write (.safetensors)")
    add("--resume", action="store_true", help="go on from the checkpoint, if there is one")
    add("--steps", type=int, default=25_000, help="optimizer steps")
    add("--features", type=int, default=32, help="channels of each inner layer")
    add("--depth", type=int, default=12, help="inner convolutions")
    add("--batch", type=int, default=8, help="crops a step")
    add("--crop", type=int, default=48, help="side of the small crops, pixels")
    add("--peak-rate", type=float, default=1.5e-3, help="highest learning rate")
    add("--pictures", type=int, default=320, help="pictures in the bank")
    add("--side", type=int, default=768, help="side of each picture, pixels")
    add("--seed", type=int, default=1, help="of the pictures, the network and the crops")
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    add("--cache", type=Path, default=CACHE, help="folder for the pictures and checkpoints")
    add("--checkpoint-s", type=float, default=60.0, help="seconds between two checkpoints")
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
    )
    torch.set_num_threads(arguments.threads)
    bank = Bank.open(arguments.cache, recipe.seed, recipe.pictures, recipe.side, arguments.threads)
    run = Run.begin(recipe)
    checkpoint = arguments.cache / f"{arguments.out.stem}.checkpoint"
    if arguments.resume and checkpoint.exists():
        run.restore(checkpoint)
        print(f"going on from step {run.step}", flush=True)
    train(run, bank, checkpoint, arguments.checkpoint_s)
    save_network(run.average, arguments.out)
    minutes = run.seconds / 60
    print(f"{arguments.out}: {run.step} steps, {minutes:.1f} minutes of training", flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    main()
