"""Compiled convolutions in place of a module's own layers, for networks that run in tiles."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from upscaled_models.esrgan.compiled.convolution import (
    Convolved,
    PackedConvolution,
    Rows,
    convolve,
    fits,
)
from upscaled_models.esrgan.loading import Descriptor


class CompiledLayer:
    """Takes the place of a convolution's `forward`.

    is_padded: False if the result is lower and narrower than the picture by two pixels. It is
    copied once then.
    """

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._packed = PackedConvolution(layer.weight, layer.bias, 1.0, dtype)
        # The kernel always pads. What it computes at the borders is cut off if the layer does not.
        self.is_padded = layer.padding == (1, 1)

    @property
    def extra_bytes(self) -> int:
        """Memory of the weights beyond the size of the layer's own."""
        return self._packed.extra_bytes + self._packed.own_bytes

    def lay_out(self) -> None:
        """Lay out the weights, which otherwise happens when the layer first runs."""
        self._packed.lay_out()

    def __call__(self, pictures: Tensor, /) -> Tensor:
        """(B, C, h, W). The result is in the precision of the layer."""
        pictures = pictures.to(self._dtype)
        if pictures.stride(1) != 1:
            pictures = pictures.contiguous(memory_format=torch.channels_last)
        batch, _, height, width = pictures.shape
        result = torch.empty(
            (batch, self._packed.outputs, height, width),
            dtype=self._dtype,
            memory_format=torch.channels_last,
        )
        for picture, out in zip(pictures, result, strict=True):
            source, to = Rows(picture, 0), Rows(out, 0)
            convolve(
                [Convolved(self._packed, source, to, until=height, first=0, last=height, grid=0)]
            )
        if self.is_padded:
            return result
        return result[:, :, 1:-1, 1:-1].contiguous(memory_format=torch.channels_last)


def with_compiled_layers(
    descriptor: Descriptor, dtype: torch.dtype
) -> tuple[Descriptor, Sequence[CompiledLayer]]:
    """A network that computes its 3x3 convolutions with the compiled kernel, and these layers.

    It shares its weights with the given one, and is the given one if no layer fits.
    """
    if not any(_fits(layer, dtype) for layer in descriptor.model.modules()):
        return descriptor, ()
    model = descriptor.model
    shared = {id(one): one for one in (*model.parameters(), *model.buffers())}
    compiled = deepcopy(descriptor, shared)
    layers = []
    for layer in compiled.model.modules():
        if isinstance(layer, nn.Conv2d) and _fits(layer, dtype):
            layers.append(CompiledLayer(layer, dtype))
            layer.forward = layers[-1]  # type: ignore[assignment,method-assign]
    return compiled, layers


def _fits(layer: nn.Module, dtype: torch.dtype) -> bool:
    return (
        # Not a class of its own, which may do anything.
        type(layer) is nn.Conv2d
        and layer.padding in ((0, 0), (1, 1))
        and layer.padding_mode == "zeros"
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and fits(layer.weight, dtype)
    )
