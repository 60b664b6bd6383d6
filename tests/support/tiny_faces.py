"""Networks for faces, small, and with results that are known."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tiny_networks import save
from upscaled_models.face.alignment import TEMPLATE
from upscaled_models.face.faces import CROP_PX, Face, Why


class Echo(nn.Module):
    """Returns its input, and keeps it with the named arguments of the call."""

    def __init__(self) -> None:
        super().__init__()
        # The layers by which half precision finds its way.
        self.final_conv = nn.Conv2d(3, 3, 1)
        self.given: list[tuple[Tensor, dict[str, Any]]] = []

    def forward(self, crop: Tensor, **named: Any) -> tuple[Tensor, None]:
        self.given.append((crop, named))
        return crop, None


def restoreformer(result: float | None = None) -> nn.Module:
    """RestoreFormer in its published layout. result: all that it gives, -1 to 1; None if random."""
    from spandrel.architectures.RestoreFormer import RestoreFormer

    torch.manual_seed(0)
    model: nn.Module = RestoreFormer(
        ch=32,
        ch_mult=(1,) * 6,
        num_res_blocks=1,
        n_embed=8,
        embed_dim=8,
        z_channels=8,
    ).eval()
    return model if result is None else constant(model, "decoder.conv_out", result)


def gfpgan(result: float | None = None) -> nn.Module:
    """GFPGAN in its published layout, with few channels."""
    from spandrel.architectures.GFPGAN import GFPGAN

    torch.manual_seed(0)
    model: nn.Module = GFPGAN(narrow=1 / 64, channel_multiplier=8).eval()
    if result is None:
        return model
    for name, value in model.named_parameters():
        if ".to_rgb" in name:
            nn.init.zeros_(value)
    nn.init.constant_(model.get_parameter("stylegan_decoder.to_rgbs.6.bias"), result)
    return model


def published_layout(name: str) -> dict[str, torch.Size]:
    """The names and sizes of the weights in a published file of that architecture."""
    package = "spandrel_extra_arches" if name == "CodeFormer" else "spandrel"
    architecture = getattr(import_module(f"{package}.architectures.{name}"), name)
    with torch.device("meta"):
        model: nn.Module = architecture()
    return {key: value.size() for key, value in model.state_dict().items()}


def constant(model: nn.Module, last: str, result: float) -> nn.Module:
    nn.init.zeros_(model.get_parameter(f"{last}.weight"))
    nn.init.constant_(model.get_parameter(f"{last}.bias"), result)
    return model


def face_model(model_dir: Path, model: nn.Module | None = None) -> Path:
    """A face model of the catalogue in a model folder: its default, with other weights."""
    folder = model_dir / "facerestore_models"
    folder.mkdir(parents=True, exist_ok=True)
    return save(model or restoreformer(), folder / "GFPGANv1.4.pth")


def face_at(x: float, y: float, side: float, why: Why | None = None) -> Face:
    """An upright face. x, y: the middle of the square of `side` pixels that a network sees."""
    corner = np.array([x, y]) - side / 2
    return Face(
        (x - side / 4, y - side / 4, side / 2, side / 2),
        0.99,
        TEMPLATE * side / CROP_PX + corner,
        why,
    )
