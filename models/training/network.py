"""The compact network, with the layer names that weight files of this architecture have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from upscaled_models.esrgan.colour import COLOUR, FOLLOWS_LUMA
from upscaled_models.esrgan.weightsfile import read_metadata


class _QuickPReLU(torch.autograd.Function):
    """PReLU with a gradient made of whole-tensor operations.

    torch's own kernel for it handles bfloat16 on the CPU one number at a time, which was half of a
    training step.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, pixels: Tensor, slope: Tensor) -> Tensor:
        """(N, C, H, W) and (C,): negative values are multiplied by their channel's slope."""
        ctx.save_for_backward(pixels, slope)
        return torch.prelu(pixels, slope)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        pixels, slope = ctx.saved_tensors
        (gradient,) = gradients
        above = torch.ops.aten.threshold_backward(gradient, pixels, 0)
        below = gradient - above
        slope_gradient = (below * pixels).sum((0, 2, 3), dtype=torch.float32).to(slope.dtype)
        return torch.addcmul(above, below, slope.view(1, -1, 1, 1)), slope_gradient


quick_prelu: Callable[[Tensor, Tensor], Tensor] = _QuickPReLU.apply


class _PReLU(nn.PReLU):
    """`nn.PReLU` with `quick_prelu` while training."""

    def forward(self, pixels: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(pixels)
        return quick_prelu(pixels, self.weight.to(pixels.dtype))


class Compact(nn.Module):
    """A stack of 3 x 3 convolutions at the input's size, then one pixel shuffle.

    This is the layout of Real-ESRGAN's SRVGGNetCompact: `body` holds convolutions and PReLUs in
    turn, and its result is added to the input enlarged by repeating pixels.

    colour: what its file says that `upscaled` makes of the colours; see `esrgan/colour.py`.
    """

    def __init__(self, scale: int, features: int, depth: int, colour: str = FOLLOWS_LUMA) -> None:
        """`depth` counts the convolutions between the first one and the last."""
        super().__init__()
        self.scale, self.colour = scale, colour
        layers: list[nn.Module] = [nn.Conv2d(3, features, 3, padding=1), _PReLU(features)]
        for _ in range(depth):
            layers += [nn.Conv2d(features, features, 3, padding=1), _PReLU(features)]
        layers.append(nn.Conv2d(features, 3 * scale * scale, 3, padding=1))
        self.body = nn.Sequential(*layers)
        for layer in self.body:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                nn.init.zeros_(torch.as_tensor(layer.bias))
        last = self.body[-1].weight
        with torch.no_grad():
            torch.as_tensor(last).mul_(0.1)  # start near plain pixel repetition

    def forward(self, small: Tensor) -> Tensor:
        """(N, 3, H, W) sRGB, 0 to 1, to (N, 3, H * scale, W * scale)."""
        enlarged = functional.interpolate(small, scale_factor=self.scale, mode="nearest")
        return functional.pixel_shuffle(self.detail(small), self.scale) + enlarged

    def detail(self, small: Tensor) -> Tensor:
        """What is added to the repeated pixels, (N, 3 * scale ** 2, H, W), unshuffled."""
        detail: Tensor = self.body(small)
        return detail


def enlarge(network: Compact, small: NDArray[np.uint8], dtype: torch.dtype) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 to (H * scale, W * scale, 3) uint8, in one piece."""
    network = network.to(dtype)
    pixels = torch.from_numpy(small.copy()).to(next(network.parameters()).device)
    pixels = pixels.permute(2, 0, 1)[None].to(dtype) / 255.0
    with torch.inference_mode():
        large = network(pixels).to(torch.float32)[0]
    rounded = (large.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return np.asarray(rounded.permute(1, 2, 0).cpu().numpy())


def save_network(network: Compact, path: Path) -> None:
    """Write the weights as float32; a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    weights = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    save_file(weights, partial, {COLOUR: network.colour})
    partial.replace(path)


def load_network(path: Path) -> Compact:
    """The network in the file `path`; its size and scale are read from the shapes in it."""
    weights = load_file(path)
    convolutions = [name for name, value in weights.items() if value.dim() == 4]
    last = max(convolutions, key=lambda name: int(name.split(".")[1]))
    scale = round((weights[last].shape[0] / 3) ** 0.5)
    colour = read_metadata(path).get(COLOUR, FOLLOWS_LUMA)
    network = Compact(scale, weights["body.0.weight"].shape[0], len(convolutions) - 2, colour)
    network.load_state_dict(weights)
    return network
