"""FLUX.1-dev's transformer: the placement of its weights, and predictions for batches of tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from upscaled_models.flux.files import Files, bad_config
from upscaled_models.flux.gguf_file import open_gguf
from upscaled_models.flux.header import WeightsFile
from upscaled_models.flux.libraries import FluxTransformer2DModel
from upscaled_models.flux.names import transformer_origin
from upscaled_models.flux.text import Embeddings
from upscaled_models.flux.weights import EachTensor, check_weights, load_weights

# expanded: in the computing precision, which is fastest. stored: in the file's format, expanded at
# each use. offloaded: stored on the host; each block is moved to the device while it is used.
Placement = Literal["expanded", "stored", "offloaded"]

_ARCHITECTURE = "flux"
# The transformer sees squares of 2 x 2 latents as one token (FLUX.1, "patchify").
PATCH = 2
# Its embeddings take times and guidance in thousandths.
_THOUSANDTHS = 1000.0


class Transformer:
    """The transformer on a device.

    size_bytes: memory that its weights take there, or on the host.
    """

    def __init__(self, module: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self.size_bytes: int = sum(value.nbytes for value in module.parameters())
        self.width: int = module.inner_dim
        self._module = module
        self._conditioning = _ExactConditioning(module.time_text_embed)
        module.time_text_embed = self._conditioning

    @torch.inference_mode()
    def predict(
        self, latents: Tensor, sigma: float, guidance: float, embeddings: Embeddings
    ) -> Tensor:
        """The direction from picture to noise, at noise level `sigma`, (B, C, h, w) in float32.

        Latents are of that shape too; h and w are multiples of `PATCH`. One model call.
        """
        batch, channels, height, width = latents.shape
        rows, columns = height // PATCH, width // PATCH
        tokens = latents.view(batch, channels, rows, PATCH, columns, PATCH)
        tokens = tokens.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
        sequence = embeddings.sequence.to(self.device, self.dtype).expand(batch, -1, -1)
        self._conditioning.set(
            torch.full((batch,), sigma, device=self.device) * _THOUSANDTHS,
            torch.full((batch,), guidance, device=self.device) * _THOUSANDTHS,
        )
        unused = torch.zeros(batch, device=self.device)
        velocity: Tensor = self._module(
            hidden_states=tokens.to(self.device, self.dtype),
            encoder_hidden_states=sequence,
            pooled_projections=embeddings.pooled.to(self.device, self.dtype).expand(batch, -1),
            timestep=unused,
            guidance=unused,
            img_ids=_positions(rows, columns, self.device),
            txt_ids=torch.zeros(sequence.shape[1], 3, device=self.device),
            return_dict=False,
        )[0]
        squares = velocity.float().view(batch, rows, columns, channels, PATCH, PATCH)
        return squares.permute(0, 3, 1, 4, 2, 5).reshape(latents.shape)


class _ExactConditioning(nn.Module):
    """Embeds time and guidance in float32.

    diffusers rounds them to the computing precision first: in bfloat16 a guidance of 3.5 would
    become 3.504, and neighbouring steps the same time.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._exact: tuple[Tensor, Tensor] | None = None

    def set(self, times: Tensor, guidance: Tensor) -> None:
        """For the next forward, in thousandths, (B,) in float32 each."""
        self._exact = (times, guidance)

    def forward(self, _times: Tensor, _guidance: Tensor, pooled: Tensor) -> Any:
        assert self._exact is not None
        return self.inner(*self._exact, pooled)


def check_transformer(files: Files) -> int:
    """Check the file's header; the number of weights in it. Raises `JobError` (model_corrupt)."""
    module = _build(files)
    with open_gguf(files.transformer, _ARCHITECTURE) as file:
        check_weights(module, file, transformer_origin)
    return sum(value.numel() for value in module.parameters())


def load_transformer(
    files: Files,
    device: torch.device,
    dtype: torch.dtype,
    placement: Placement,
    each: EachTensor,
) -> Transformer:
    """Load the transformer. Raises `JobError` (model_corrupt), and what `each` raises."""
    module = _build(files)
    with open_gguf(files.transformer, _ARCHITECTURE) as file:
        check_weights(module, file, transformer_origin)
        return fill_transformer(
            module, file, device=device, dtype=dtype, placement=placement, each=each
        )


def fill_transformer(
    module: Any,
    file: WeightsFile,
    *,
    device: torch.device,
    dtype: torch.dtype,
    placement: Placement,
    each: EachTensor,
) -> Transformer:
    """Give a module without weights those of a file that fits it. Raises what `each` raises."""
    home = torch.device("cpu") if placement == "offloaded" else device
    load_weights(
        module,
        file,
        transformer_origin,
        device=home,
        dtype=dtype,
        keep_stored=placement != "expanded",
        each=each,
    )
    if placement == "offloaded":
        # With its own stream the next block is moved while this one computes.
        streams = device.type == "cuda"
        module.enable_group_offload(
            device,
            home,
            num_blocks_per_group=1,
            use_stream=streams,
            low_cpu_mem_usage=streams,
        )
    return Transformer(module, device, dtype)


def choose_placement(
    weights: int, stored_bytes: int, dtype: torch.dtype, free_bytes: int, device: torch.device
) -> Placement:
    """The fastest placement that fits into `free_bytes`. weights: how many there are."""
    if weights * dtype.itemsize <= free_bytes:
        return "expanded"
    return "stored" if stored_bytes <= free_bytes or device.type == "cpu" else "offloaded"


def _build(files: Files) -> Any:
    fields = files.config("transformer")
    try:
        with torch.device("meta"):
            module = FluxTransformer2DModel(**fields)
    except Exception as error:  # the library may fail anywhere in foreign fields
        raise bad_config(_config_folder(files), error) from error
    if not fields.get("guidance_embeds"):
        raise bad_config(_config_folder(files), "FLUX.1-dev takes guidance: guidance_embeds")
    return module


def _config_folder(files: Files) -> Path:
    return files.model_dir / "configs" / "transformer"


def _positions(rows: int, columns: int, device: torch.device) -> Tensor:
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 1] = torch.arange(rows, device=device).view(-1, 1)
    ids[..., 2] = torch.arange(columns, device=device)
    return ids.view(-1, 3)
