"""Transformer and autoencoder together, as they are loaded, kept and let go."""

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

# Of the device's free memory, what is left for whichever runs: a batch of tiles, the autoencoder
# (1.3 GB for a tile of 512 pixels) or the first stage. A card of 16 GB then holds the weights.
_RESERVED_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class FluxModels:
    """What a job computes with; the text encoders are gone by then."""

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
    """Load both, the transformer in the fastest way that `free_bytes` allow.

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
