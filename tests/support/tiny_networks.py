"""Networks of known architectures, with random weights and small enough to run in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from upscaled_models.device.precision import choose_dtype
from upscaled_models.esrgan import morearchitectures
from upscaled_models.esrgan.compiled import library
from upscaled_models.esrgan.network import Network

CPU = torch.device("cpu")
# oneDNN has bf16 on any processor with AVX-512, though jobs use it only where it is fast.
HAS_BF16: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
USES_BF16 = choose_dtype("auto", CPU, bits=8)[0] == torch.bfloat16
DTYPES = [torch.float32, torch.bfloat16] if HAS_BF16 else [torch.float32]


def compact(features: int = 8, convolutions: int = 2, scale: int = 4, seed: int = 0) -> nn.Module:
    """SRVGGNetCompact, the architecture of the bundled models."""
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(seed)
    model: nn.Module = Compact(num_feat=features, num_conv=convolutions, upscale=scale).eval()
    for layer in model.modules():
        if isinstance(layer, nn.PReLU):  # as in a trained network, whose slopes all differ
            nn.init.uniform_(layer.weight, -0.1, 1.1)
    return model


def rrdb(features: int = 8, blocks: int = 1, seed: int = 0) -> nn.Module:
    """RRDBNet, the architecture of ESRGAN, x4."""
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(seed)
    model: nn.Module = ESRGAN(num_filters=features, num_blocks=blocks, scale=4).eval()
    return model


def swinir(seed: int = 0, heads: int = 2) -> nn.Module:
    """Shifted windows of 8 pixels: exact only if tiles begin at multiples of 8."""
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(seed)
    model: nn.Module = SwinIR(
        embed_dim=12,
        depths=[2],
        num_heads=[heads],
        window_size=8,
        upscale=2,
        upsampler="pixelshuffledirect",
        img_size=32,
    )
    return model.eval()


def network(model: nn.Module, dtype: torch.dtype = torch.float32) -> Network:
    """What the engine makes of a module's weights."""
    named = {name: value.clone() for name, value in weights(model).items()}
    descriptor = morearchitectures.load(named)
    descriptor.eval()
    for parameter in descriptor.model.parameters():
        parameter.requires_grad_(False)
    return Network(descriptor, CPU, dtype)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The module's weights by name."""
    return {name: value.contiguous() for name, value in model.state_dict().items()}


def save(model: nn.Module, path: Path) -> Path:
    """A weights file as models are published: .pth files hold theirs under `params`."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(weights(model), path)
    else:
        torch.save({"params": weights(model)}, path)
    return path


def random_picture(height: int, width: int, *, channels: int = 3, seed: int = 0) -> Tensor:
    """(1, channels, height, width), 0 to 1, channels last in memory as pixels from a file are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, height, width, channels, generator=generator).permute(0, 3, 1, 2)


def smooth_picture(height: int, width: int) -> Tensor:
    """A picture like a photograph: slow changes of colour, and an edge."""
    rows = torch.linspace(0, 3, height).view(1, height, 1, 1)
    columns = torch.linspace(0, 5, width).view(1, 1, width, 1)
    phases = torch.tensor([0.0, 1.0, 2.0]).view(1, 1, 1, 3)
    waves = 0.5 + 0.3 * torch.sin(rows * columns + columns + phases)
    return (waves + 0.15 * (columns > rows)).permute(0, 3, 1, 2)


def in_bands(picture: Tensor, rows: int) -> Iterator[Tensor]:
    """The picture from the top down, `rows` at a time."""
    for top in range(0, picture.shape[2], rows):
        yield picture[:, :, top : top + rows]


@contextmanager
def without_compiled_steps() -> Iterator[None]:
    """As if there had been no C compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "LIBRARY", Path("/nonexistent.so"))
        library.loaded.cache_clear()
        try:
            yield
        finally:
            library.loaded.cache_clear()


def psnr(first: Tensor | np.ndarray, second: Tensor | np.ndarray, top: float = 1.0) -> float:
    """Peak signal to noise ratio in dB; `top` is white."""
    error = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return float(10 * np.log10(top**2 / max(float(np.mean(error**2)), 1e-20)))
