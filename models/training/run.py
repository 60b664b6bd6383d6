"""A network in training: its steps, and the checkpoint from which a later process continues."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from training.crops import Crops
from training.loss import picture_loss
from training.network import Compact
from upscaled_models.esrgan.colour import FOLLOWS_LUMA, SMOOTH_FOLLOWS_LUMA

WARM_UP_STEPS = 500
"""Adam's averages are noise in its first steps; the learning rate rises linearly over these."""

DECAY_SHARE = 0.5
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
    start: str | None  # sha256 of the weights that it began from

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


class Run:
    """A network in training and all that a resumed run needs."""

    def __init__(self, recipe: Recipe, device: torch.device, *, bfloat16: bool = False) -> None:
        """`bfloat16` computes the convolutions in it; weights stay in float32."""
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.bfloat16 = recipe, device, bfloat16
        # Damage is in the colours of the small picture, too, and they are not the network's.
        colour = SMOOTH_FOLLOWS_LUMA if recipe.damaged else FOLLOWS_LUMA
        network = Compact(recipe.scale, recipe.features, recipe.depth, colour).to(device)
        # torch's own types do not know this form of `to`.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network)
        on_gpu = device.type == "cuda"
        # As tensors, so that a recorded step reads their values of the day.
        self._rate = torch.tensor(recipe.peak_rate, device=device)
        self._decay = torch.tensor(0.0, device=device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=self._rate,
            betas=(0.9, 0.99),
            foreach=on_gpu,
            capturable=on_gpu,
        )
        self.step = 0
        self.seconds = 0.0
        # Compiled, the many operations of the loss and of slopes become few kernels.
        self._loss: Callable[[Tensor, Tensor], Tensor] = (
            torch.compile(self._compute_loss) if on_gpu else self._compute_loss
        )
        self._take: Callable[[Tensor, Tensor], Tensor] = self._update

    def begin_with(self, network: Compact) -> None:
        """Take its weights. Raises RuntimeError if it is of another size."""
        self.network.load_state_dict(network.state_dict())
        self.average.load_state_dict(network.state_dict())

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
        saved = torch.load(path, weights_only=True, map_location=self.device)
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
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate
        self.step, self.seconds = step, saved["seconds"]

    def advance(self, crops: Crops) -> Tensor:
        """One step of the optimizer; returns its loss, on the device."""
        small, truth = crops.pairs(self.step)
        self._rate.fill_(self.recipe.rate(self.step))
        self._decay.fill_(min(AVERAGING, (1 + self.step) / (10 + self.step)))
        loss = self._take(small, truth)
        self.step += 1
        return loss

    def record(self, crops: Crops) -> None:
        """From now on replay a recorded step: its many small kernels need no time of Python's.

        The steps that warm up the recording are taken back.
        """
        small, truth = (pair.clone() for pair in crops.pairs(self.step))
        before = copy.deepcopy(
            (self.network.state_dict(), self.average.state_dict(), self.optimizer.state_dict())
        )
        aside: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self._update(small, truth)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._update(small, truth)
        self._put_back(before)

        def replay(now_small: Tensor, now_truth: Tensor) -> Tensor:
            small.copy_(now_small)
            truth.copy_(now_truth)
            graph.replay()
            return loss

        self._take = replay

    def _put_back(self, before: tuple[dict[str, Any], ...]) -> None:
        """Into the very tensors that were recorded."""
        network, average, optimizer = before
        self.network.load_state_dict(network)
        self.average.load_state_dict(average)
        for number, parameter in enumerate(self.network.parameters()):
            for name, value in self.optimizer.state[parameter].items():
                kept = optimizer["state"].get(number, {}).get(name)
                value.zero_() if kept is None else value.copy_(kept)

    def _compute_loss(self, small: Tensor, truth: Tensor) -> Tensor:
        recipe = self.recipe
        small = small.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            detail = self.network.detail(small)
        wanted = functional.pixel_unshuffle(truth, recipe.scale)
        wanted = wanted.reshape(recipe.batch, 3, -1, recipe.crop, recipe.crop)
        large = detail.float().reshape(wanted.shape) + small[:, :, None]
        return picture_loss(large, wanted)

    def _update(self, small: Tensor, truth: Tensor) -> Tensor:
        loss = self._loss(small, truth)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(now, 1.0 - self._decay)
        return loss.detach()
