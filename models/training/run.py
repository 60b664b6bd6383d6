"""A network in training: its steps, and the checkpoint from which a later process continues."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.bank import Bank
from training.loss import picture_loss
from training.network import Compact

WARM_UP_STEPS = 500
"""Adam's averages are noise in its first steps; the learning rate rises linearly over these."""

DECAY_SHARE = 0.25
"""The last part of the steps, in which the learning rate falls to zero along half a cosine. It is
constant before that, so that a run may be given more steps as long as it has not come so far."""

AVERAGING = 0.9995
"""Decay of the weight average per step: about the last two thousand steps count."""


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
    damaged: bool

    def decay_begins(self) -> int:
        """The step from which the number of steps decides the learning rate."""
        return int(self.steps * (1.0 - DECAY_SHARE))

    def rate(self, step: int) -> float:
        """The learning rate at `step`."""
        warm_up = min(WARM_UP_STEPS, self.steps // 10 + 1)
        if step < warm_up:
            return self.peak_rate * (step + 1) / warm_up
        begins = self.decay_begins()
        through = max(step - begins, 0) / max(self.steps - begins, 1)
        return self.peak_rate * 0.5 * (1.0 + math.cos(math.pi * through))


@dataclass
class Run:
    """A network in training and all that a resumed run needs."""

    recipe: Recipe
    network: Compact
    average: Compact
    optimizer: torch.optim.Adam
    bfloat16: bool = False
    step: int = 0
    seconds: float = 0.0  # of the processor, not of the clock: other work does not count

    @classmethod
    def begin(cls, recipe: Recipe, *, bfloat16: bool = False) -> Run:
        torch.manual_seed(recipe.seed)
        network = Compact(recipe.scale, recipe.features, recipe.depth)
        optimizer = torch.optim.Adam(network.parameters(), lr=recipe.peak_rate, betas=(0.9, 0.99))
        return cls(recipe, network, copy.deepcopy(network), optimizer, bfloat16)

    def save(self, path: Path) -> None:
        """Write all that `restore` needs; a reader never sees half a file.

        No state of a random generator is in it: the step number seeds each step's own.
        """
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
        """Continue from `path`. Raises ValueError if it belongs to another recipe.

        The number of steps may differ if the learning rate has not begun to fall under either.
        """
        saved = torch.load(path, weights_only=True)
        recipe, step = Recipe(**saved["recipe"]), saved["step"]
        if recipe.steps != self.recipe.steps:
            if step > min(recipe.decay_begins(), self.recipe.decay_begins()):
                raise ValueError(f"{path} was made with other settings: --steps {recipe.steps}")
            recipe = Recipe(**{**saved["recipe"], "steps": self.recipe.steps})
        if recipe != self.recipe:
            raise ValueError(f"{path} was made with other settings: {saved['recipe']}")
        self.network.load_state_dict(saved["network"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds = step, saved["seconds"]

    def advance(self, bank: Bank) -> Tensor:
        """One step of the optimizer; returns its loss. The step number alone seeds its crops."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 1, self.step])
        small, truth = bank.pairs(rng, recipe.scale, recipe.batch, recipe.crop)
        small = small.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            detail = self.network.detail(small)
        wanted = functional.pixel_unshuffle(truth, recipe.scale)
        wanted = wanted.reshape(recipe.batch, 3, -1, recipe.crop, recipe.crop)
        large = detail.float().reshape(wanted.shape) + small[:, :, None]
        loss = picture_loss(large, wanted)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.step)
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
