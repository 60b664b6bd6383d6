"""A network of a size that people use, where only its speed counts."""

from __future__ import annotations

from pathlib import Path


def save_larger(path: Path) -> Path:
    """A Compact network of the size of realesr-animevideov3, with random weights."""
    from upscaled_models.torchvision_shim import declare_missing_operators

    declare_missing_operators()
    import torch
    from spandrel.architectures.Compact import Compact
    from torch import nn

    torch.manual_seed(0)
    network = Compact(num_feat=64, num_conv=16, upscale=4)
    for layer in network.modules():
        if isinstance(layer, nn.PReLU):  # as in a trained one, where no two slopes are equal
            nn.init.uniform_(layer.weight, 0, 0.5)
    torch.save({"params": network.state_dict()}, path)
    return path
