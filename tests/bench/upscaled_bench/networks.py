"""Networks of sizes that people use, with random weights, because only their speed counts."""

from __future__ import annotations

from pathlib import Path


def save_larger(path: Path) -> Path:
    """A Compact network of the size of realesr-animevideov3, with random weights."""
    from upscaled_models.torchvision_shim import import_torchvision

    import_torchvision()
    import torch
    from spandrel.architectures.Compact import Compact
    from torch import nn

    torch.manual_seed(0)
    network = Compact(num_feat=64, num_conv=16, upscale=4)
    for layer in network.modules():
        if isinstance(layer, nn.PReLU):  # as in a trained network: no two slopes are equal
            nn.init.uniform_(layer.weight, 0, 0.5)
    torch.save({"params": network.state_dict()}, path)
    return path


def save_rrdb(path: Path) -> Path:
    """RRDB of 23 blocks and 64 features: Real-ESRGAN, 4x-UltraSharp."""
    from upscaled_models.torchvision_shim import import_torchvision

    import_torchvision()
    import torch
    from safetensors.torch import save_file
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    save_file(ESRGAN(num_blocks=23, scale=4).state_dict(), path)
    return path


def save_in_tiles(path: Path) -> Path:
    """SwinIR-S, which does not run row by row."""
    from upscaled_models.torchvision_shim import import_torchvision

    import_torchvision()
    import torch
    from safetensors.torch import save_file
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(0)
    model = SwinIR(
        embed_dim=60, depths=[6] * 4, num_heads=[6] * 4, window_size=8, mlp_ratio=2, img_size=64,
        upscale=4, upsampler="pixelshuffledirect",
    )  # fmt: skip
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path
