"""A loaded network that restores one face: how each architecture is called, and in what precision.

Each of the three architectures takes and gives RGB from -1 to 1. spandrel's own call scales it for
RestoreFormer only.
Sources: the inference code of GFPGAN, RestoreFormer and CodeFormer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from upscaled_models.esrgan.loading import Descriptor
from upscaled_models.face.faces import CROP_PX, Floats

Layers = Iterator[nn.Module]

# Layers whose few weights stay in float32, because they then take inputs of both precisions.
_NORMALISATIONS = (nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class _Architecture:
    """How a network of it is called, and its parts that are not computed in half precision.

    call: from the network and RGB, (1, 3, 512, 512), -1 to 1, to the same.
    weights: layers that compute their weights first: these stay in float32.
    exact: layers that choose an entry of a codebook: all of them is computed in float32.
    """

    call: Callable[[nn.Module, Tensor], Tensor]
    weights: Callable[[nn.Module], Layers]
    exact: Callable[[nn.Module], Layers]


def _call_gfpgan(model: nn.Module, crop: Tensor) -> Tensor:
    # The noise that comes with the weights; fresh noise would differ from call to call.
    face: Tensor = model(crop, return_rgb=False, randomize_noise=False)[0]
    return face


def _call(model: nn.Module, crop: Tensor) -> Tensor:
    face: Tensor = model(crop)[0]
    return face


def _modulated(model: nn.Module) -> Layers:
    # StyleGAN2's convolutions, whose weights have five dimensions.
    return (layer for layer in model.modules() if hasattr(layer, "modulation"))


def _nothing(_model: nn.Module) -> Layers:
    return iter(())


def _codebook(model: nn.Module) -> Layers:
    yield model.get_submodule("quant_conv")
    yield model.get_submodule("quantize")


def _code_prediction(model: nn.Module) -> Layers:
    yield model.get_submodule("feat_emb")
    yield from model.get_submodule("ft_layers").children()
    yield model.get_submodule("idx_pred_layer")


# By spandrel's names.
ARCHITECTURES: Mapping[str, _Architecture] = {
    "GFPGAN": _Architecture(_call_gfpgan, _modulated, _nothing),
    "RestoreFormer": _Architecture(_call, _nothing, _codebook),
    "CodeFormer": _Architecture(_call, _nothing, _code_prediction),
}


class FaceNetwork:
    """One network on one device in one precision. Use it from one thread at a time.

    architecture: spandrel's name of it. size_bytes: memory of the weights.
    """

    def __init__(self, descriptor: Descriptor, device: torch.device, dtype: torch.dtype) -> None:
        """descriptor: in float32 on the processor; it is changed."""
        model: nn.Module = descriptor.model
        self.architecture: str = descriptor.architecture.name
        self.device = device
        self.dtype = dtype
        self._model = model
        self._known = ARCHITECTURES[self.architecture]
        model.to(device=device)
        self._lay_out()
        if dtype != torch.float32:
            self._to_half()
        self.size_bytes = sum(
            tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()
        )

    @torch.inference_mode()
    def restore(self, crop: Floats) -> Floats:
        """A face, (512, 512, 3) RGB, 0 to 1, to the same: restored.

        The result is the same to the bit for the same face. In half precision it may hold values
        that are not finite.
        """
        planes = torch.from_numpy(crop).to(self.device).permute(2, 0, 1).unsqueeze(0)
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=half):
            face = self._known.call(self._model, planes.mul(2).sub_(1).to(self.dtype))
        restored = face[0].float().clamp(-1, 1).add_(1).div_(2).permute(1, 2, 0)
        pixels: Floats = np.ascontiguousarray(restored.cpu().numpy())
        if pixels.shape != (CROP_PX, CROP_PX, 3):
            raise ValueError(f"the network gave a face of {pixels.shape}")
        return pixels

    def _lay_out(self) -> None:
        """Channels last, in which convolutions are faster. Inputs follow the weights."""
        for layer in self._model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.architecture == "GFPGAN":
            # Its result is flattened without a copy, which takes the usual layout.
            self._model.get_submodule("final_conv").register_forward_hook(_contiguous)

    def _to_half(self) -> None:
        self._model.to(dtype=self.dtype)
        for layer in self._model.modules():
            if isinstance(layer, _NORMALISATIONS):
                layer.float()
        for layer in self._known.weights(self._model):
            layer.float()
        for layer in self._known.exact(self._model):
            _compute_in_float32(layer, self.device.type)


def _contiguous(_layer: nn.Module, _given: object, result: Tensor) -> Tensor:
    return result.contiguous()


def _compute_in_float32(layer: nn.Module, device_type: str) -> None:
    layer.float()
    forward = layer.forward

    def forward_in_float32(*tensors: Tensor, **named: Tensor) -> object:
        with torch.autocast(device_type, enabled=False):
            return forward(
                *(tensor.float() for tensor in tensors),
                **{name: tensor.float() for name, tensor in named.items()},
            )

    layer.forward = forward_in_float32
