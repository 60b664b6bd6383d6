"""Transformer and autoencoder, which are loaded and unloaded together."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from upscaled_models.flux.autoencoder import Autoencoder, load_autoencoder
from upscaled_models.flux.files import Files
from upscaled_models.flux.transformer import (
    Transformer,
    check_transformer,
    choose_placement,
    load_transformer,
)
from upscaled_models.flux.weights import EachTensor

# Memory of the device that is kept free for a batch of tiles, the autoencoder (1.3 GB for a tile of
# 512 pixels) or the first stage. A card of 16 GB can then hold the weights.
_RESERVED_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class FluxModels:
    """The models of a job. The text encoders are unloaded before."""

    transformer: Transformer
    autoencoder: Autoencoder

    @property
    def size_bytes(self) -> int:
        """Memory of the weights."""
        return self.transformer.size_bytes + self.autoencoder.size_bytes


def load_models(
    files: Files,
    device: torch.device,
    dtype: torch.dtype,
    free_bytes: int,
    each: EachTensor,
) -> FluxModels:
    """Load both; the transformer in the fastest placement that `free_bytes` allow.

    The autoencoder computes in float32: that costs little beside the transformer, and its results
    are finer than 8 bits. Raises `JobError` (model_corrupt), and what `each` raises.
    """
    weights = check_transformer(files)
    autoencoder = load_autoencoder(files, device, torch.float32, each)
    placement = choose_placement(
        weights,
        files.transformer.stat().st_size,
        dtype,
        free_bytes - autoencoder.size_bytes - _RESERVED_BYTES,
        device,
    )
    transformer = load_transformer(files, device, dtype, placement, each)
    return FluxModels(transformer, autoencoder)
