"""The scores of attention before anything is computed, and what is computed of them: the steps that
a network wrote, or attention in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from upscaled_models.esrgan.compiled import attention, library
from upscaled_models.esrgan.compiled.attention import Heads

# A bias that differs from window to window is added up for some of them at once: on a processor for
# so few that it stays in the caches.
_BIAS_BYTES = {"cpu": 4_000_000, "cuda": 256_000_000}
# The devices where one step gains, and shapes alone, where what it takes of memory is found out.
DEVICES = (*_BIAS_BYTES, "meta")
# A card's fused attention takes no other widths.
_CARDS_MULTIPLE = 8


@dataclass(frozen=True)
class Scores:
    """queries @ keys.mT * factor + the biases, which have as many dimensions and broadcast to it.

    queries: (…, N, d). keys: (…, M, d).
    factor: a number, or a number for each product of two matrices.
    are_weights: their softmax over the keys is meant.
    """

    queries: Tensor
    keys: Tensor
    factor: float | Tensor | None = None
    biases: tuple[Tensor, ...] = ()
    are_weights: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.queries.shape[:-1], self.keys.shape[-2])

    def compute(self) -> Tensor:
        """In the steps that the network wrote."""
        scores = self.queries @ self.keys.mT
        if self.factor is not None:
            scores = scores * self.factor
        for bias in self.biases:
            scores = scores + bias
        return scores.softmax(-1) if self.are_weights else scores

    def times(self, values: Tensor) -> Tensor:
        """The weights' product with the values, (…, M, d), in one step."""
        queries, factor = self.queries, self.factor
        if queries.is_meta:
            return queries.new_empty(queries.shape)
        if isinstance(factor, Tensor):
            queries, factor = queries * factor, None
        dtype = dtype_of_product(queries)
        heads = Heads(*(_in_four(one.to(dtype)) for one in (queries, self.keys, values)))
        biases = [_in_four(bias, self.shape) for bias in self.biases]
        fixed = _total([bias for bias in biases if len(bias) == 1])
        varied = [bias for bias in biases if len(bias) > 1]
        scale = 1.0 if factor is None else factor
        if attention.takes(heads) and len(varied) <= 1:
            own, lanes = _total(varied), library.lanes()
            result = attention.attend(heads, fixed, own, scale, lanes=lanes)
        else:
            result = _attend(heads, fixed, varied, scale)
        return result.reshape(self.queries.shape)


def _attend(given: Heads, fixed: Tensor | None, varied: Sequence[Tensor], scale: float) -> Tensor:
    """Attention by torch's own step (Dao et al., "FlashAttention", 2022)."""
    queries, keys, values = given
    windows, heads, places, width = queries.shape
    device = queries.device.type
    at_once = windows
    if varied:
        at_once = max(_BIAS_BYTES[device] // (4 * heads * places * keys.shape[2]), 1)
    if device == "cuda":
        queries, keys, values = (_widened(one) for one in (queries, keys, values))

    def attend(here: slice) -> Tensor:
        of_all = () if fixed is None else (fixed,)
        total = _total([*of_all, *(bias[here] for bias in varied)])
        # On a processor a bias stays more exact than the product.
        if device == "cuda" and total is not None:
            total = total.to(queries.dtype)
        return functional.scaled_dot_product_attention(
            queries[here], keys[here], values[here], total, scale=scale
        )

    # It would round the biases.
    with torch.autocast(device, enabled=False):
        parts = [attend(slice(at, at + at_once)) for at in range(0, windows, at_once)]
    result = parts[0] if len(parts) == 1 else torch.cat(parts)
    return result[..., :width]


def dtype_of_product(queries: Tensor) -> torch.dtype:
    device = queries.device.type
    return torch.get_autocast_dtype(device) if in_half(device) else queries.dtype


def in_half(device: str) -> bool:
    """True if torch computes products in half precision by itself."""
    return device != "meta" and torch.is_autocast_enabled(device)


def _in_four(one: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """With four dimensions: windows, heads, places, and channels or places. A bias of all windows
    stays one.

    shape: that a bias broadcasts to.
    """
    if one.dim() == 3:
        return one.unsqueeze(1)
    if one.dim() == 4:
        return one
    is_fixed = prod(one.shape[:-3]) == 1
    outer = one.shape[:-3] if is_fixed or not shape else shape[:-3]
    return one.expand(*outer, *one.shape[-3:]).flatten(0, -4)


def _widened(one: Tensor) -> Tensor:
    """With zeros after its last dimension, up to a width that a card takes."""
    return functional.pad(one, (0, -one.shape[-1] % _CARDS_MULTIPLE))


def _total(biases: Sequence[Tensor]) -> Tensor | None:
    return reduce(torch.add, biases) if biases else None
