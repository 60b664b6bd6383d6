"""FLUX's autoencoder: pixels to latents and back, one tile at a time.

Convolutions in half precision differ with the batch size, so in a batch a tile's pixels would
depend on the other tiles.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from upscaled_models.flux.files import Files, bad_config
from upscaled_models.flux.header import open_safetensors
from upscaled_models.flux.libraries import AutoencoderKL
from upscaled_models.flux.names import autoencoder_origin
from upscaled_models.flux.weights import EachTensor, check_weights, load_weights


class Autoencoder:
    """The autoencoder on a device. factor: pixels per latent, each way. channels: of a latent."""

    def __init__(self, module: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self.size_bytes: int = sum(value.nbytes for value in module.parameters())
        self.factor = 2 ** (len(module.config.block_out_channels) - 1)
        self.channels: int = module.config.latent_channels
        self._scaling: float = module.config.scaling_factor
        self._shift: float = module.config.shift_factor or 0.0
        self._module = module

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """(3, H, W), 0 to 1, to latents (channels, H / factor, W / factor) in float32.

        The mean of the encoder's distribution, so nothing is random.
        """
        scaled = (2 * pixels.to(self.device) - 1).to(self.dtype)
        latents: Tensor = self._module.encode(scaled.unsqueeze(0)).latent_dist.mode()
        return (latents[0].float() - self._shift) * self._scaling

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pixels: (3, H, W) in float32, 0 to 1; some values may lie slightly outside."""
        scaled = (latents / self._scaling + self._shift).to(self.dtype)
        pixels: Tensor = self._module.decode(scaled.unsqueeze(0)).sample[0]
        return pixels.float() / 2 + 0.5


def check_autoencoder(files: Files) -> None:
    """Check the file's header. Raises `JobError` (model_corrupt)."""
    module = _build(files)
    with open_safetensors(files.autoencoder) as file:
        check_weights(module, file, _origin(module))


def load_autoencoder(
    files: Files, device: torch.device, dtype: torch.dtype, each: EachTensor
) -> Autoencoder:
    """Load the autoencoder. Raises `JobError` (model_corrupt), and what `each` raises."""
    module = _build(files)
    with open_safetensors(files.autoencoder) as file:
        check_weights(module, file, _origin(module))
        load_weights(module, file, _origin(module), device=device, dtype=dtype, each=each)
    return Autoencoder(module, device, dtype)


def _origin(module: Any) -> Any:
    return partial(autoencoder_origin, levels=len(module.config.block_out_channels))


def _build(files: Files) -> Any:
    fields = files.config("vae")
    try:
        with torch.device("meta"):
            module = AutoencoderKL(**fields)
        scaling, shift = module.config.scaling_factor, module.config.shift_factor
        if not (isinstance(scaling, int | float) and scaling > 0):
            raise ValueError(f"its scaling_factor is {scaling!r}")
        if not isinstance(shift, int | float | None):
            raise ValueError(f"its shift_factor is {shift!r}")
    except Exception as error:  # the library may fail anywhere in foreign fields
        raise bad_config(files.model_dir / "configs" / "vae", error) from error
    return module
