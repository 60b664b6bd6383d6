"""Attention of foreign networks, computed in one step.

Their modules write it out: queries times keys, plus a bias for each pair of places and perhaps a
mask, softmax, times values. Each of these calls reads and writes a number for every pair, which
takes most of the time and memory of a network of windows. Here the product of queries and keys
waits until it is known what becomes of it. If it is attention, one step gives the result without
those numbers in memory (`scores.py`); if not, it is computed then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from upscaled_models.esrgan.scores import DEVICES, Scores, dtype_of_product, in_half


class FusedAttention(TorchFunctionMode):
    """While active, attention that is written out is computed in one step. Other calls are as they
    are. Only for inference."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in _PRODUCTS and not kwargs and _may_be_attention(*args):
            queries, keys = args
            return _Waiting.of(Scores(queries, keys.mT), dtype_of_product(queries))
        return func(*args, **(kwargs or {}))


def _may_be_attention(queries: Any, keys: Any) -> bool:
    """True if their product may be that of queries, (…, N, d), and keys turned over, (…, d, M)."""
    return (
        type(queries) is type(keys) is Tensor
        and queries.dim() == keys.dim() >= 3
        and queries.shape[:-2] == keys.shape[:-2]
        and queries.dtype == keys.dtype
        and queries.is_floating_point()
        and queries.device.type in DEVICES
        # Otherwise the product is small, for example that of channels.
        and queries.shape[-1] == keys.shape[-2] <= min(queries.shape[-2], keys.shape[-1])
    )


class _Waiting(Tensor):
    """Scores that were not computed yet. What attention does to them gives scores that wait, too;
    any other call computes them, once.

    scores: may have fewer or more dimensions of size 1 than this tensor.
    """

    scores: Scores
    _value: Tensor | None
    _source: _Waiting | None

    @classmethod
    def of(
        cls,
        scores: Scores,
        dtype: torch.dtype,
        shape: Sequence[int] | None = None,
        source: _Waiting | None = None,
    ) -> _Waiting:
        """source: the tensor that this one is a view of."""
        size = tuple(scores.shape if shape is None else shape)
        one: _Waiting = Tensor._make_wrapper_subclass(
            cls, size, dtype=dtype, device=scores.queries.device
        )
        one.scores, one._value, one._source = scores, None, source
        return one

    @property
    def waits(self) -> bool:
        """False once it was computed: it may have been written to since."""
        return self._value is None and (self._source is None or self._source.waits)

    def compute(self) -> Tensor:
        """What it stands for."""
        if self._source is not None:
            return self._source.compute().view(self.shape)
        if self._value is None:
            self._value = self.scores.compute().view(self.shape)
        return self._value

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DESCRIPTIONS:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        step = _STEPS.get(func)
        result = None if step is None else step(func, *args, **kwargs)
        return _computed(func, args, kwargs) if result is None else result

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _computed(func, args, kwargs or {})


def _computed(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The call with all that waits computed."""
    args, kwargs = tree_map_only(_Waiting, _Waiting.compute, (args, kwargs))
    return func(*args, **kwargs)


# The steps of attention. Each gives None for a call that is not one of them.


def _plus(_: Any, one: Any, other: Any, **options: Any) -> _Waiting | None:
    """A bias, or a mask."""
    waiting, bias = (one, other) if isinstance(one, _Waiting) else (other, one)
    if options or not waiting.waits or waiting.scores.are_weights:
        return None
    own = _in_own_dimensions(bias, waiting)
    # Fused attention takes no others.
    allowed = (torch.float32, dtype_of_product(waiting.scores.queries))
    if own is None or own.dtype not in allowed:
        return None
    scores = replace(waiting.scores, biases=(*waiting.scores.biases, own))
    dtype = torch.promote_types(waiting.dtype, own.dtype)
    return _Waiting.of(scores, dtype, waiting.shape)


def _scaled(_: Any, one: Any, other: Any, **options: Any) -> _Waiting | None:
    """By a number, or by one for each head."""
    waiting, factor = (one, other) if isinstance(one, _Waiting) else (other, one)
    scores = waiting.scores
    if options or not waiting.waits or scores.are_weights or scores.biases:
        return None
    if scores.factor is not None:
        return None
    if not isinstance(factor, int | float):
        factor = _in_own_dimensions(factor, waiting)
        if factor is None or factor.dtype != waiting.dtype or factor.shape[-2:] != (1, 1):
            return None
    return _Waiting.of(replace(scores, factor=factor), waiting.dtype, waiting.shape)


def _in_own_dimensions(given: Any, waiting: _Waiting) -> Tensor | None:
    """What broadcasts to a tensor that waits, with the dimensions of its scores; None for all
    else."""
    shape = waiting.shape
    if not isinstance(given, Tensor) or isinstance(given, _Waiting) or given.dim() > len(shape):
        return None
    sizes = (1,) * (len(shape) - given.dim()) + given.shape
    if any(size not in (1, full) for size, full in zip(sizes, shape, strict=True)):
        return None
    outer = zip(sizes[:-2], shape[:-2], strict=True)
    kept = iter([size for size, full in outer if full != 1])
    own = [1 if full == 1 else next(kept) for full in waiting.scores.shape[:-2]]
    return given.reshape(*own, *sizes[-2:])


def _seen_as(func: Any, waiting: _Waiting, *sizes: Any, **options: Any) -> _Waiting | None:
    """A view with other dimensions of size 1: windows are counted picture by picture."""
    if options or not waiting.waits:
        return None
    shape = waiting.shape
    seen = func(torch.empty((), dtype=waiting.dtype, device="meta").expand(shape), *sizes)
    is_same = seen.shape[-2:] == shape[-2:] and [side for side in seen.shape if side != 1] == [
        side for side in shape if side != 1
    ]
    if not is_same or seen.dtype != waiting.dtype:
        return None
    return _Waiting.of(waiting.scores, waiting.dtype, seen.shape, waiting)


def _softmax(_: Any, waiting: Any, dim: Any = None, *more: Any, **options: Any) -> _Waiting | None:
    over_keys = dim in (-1, waiting.dim() - 1)
    dtype = options.get("dtype") or waiting.dtype
    if more or not over_keys or not waiting.waits or waiting.scores.are_weights:
        return None
    if dtype != waiting.dtype or "out" in options:
        return None
    if in_half(waiting.device.type):
        dtype = torch.float32
    return _Waiting.of(replace(waiting.scores, are_weights=True), dtype, waiting.shape)


def _dropout(
    _: Any, waiting: _Waiting, p: float = 0.5, training: bool = True, **_in_place: bool
) -> _Waiting | None:
    return None if training and p else waiting


def _times(_: Any, weights: Any, values: Any, **options: Any) -> Tensor | None:
    if options or not isinstance(weights, _Waiting) or type(values) is not Tensor:
        return None
    scores, shape = weights.scores, weights.shape
    if not weights.waits or not scores.are_weights or values.dtype != scores.queries.dtype:
        return None
    if values.shape != (*shape[:-2], shape[-1], scores.queries.shape[-1]):
        return None
    result = scores.times(values.reshape(scores.keys.shape))
    return result.reshape(*shape[:-1], -1)


_PRODUCTS = frozenset({Tensor.__matmul__, Tensor.matmul, Tensor.bmm, torch.matmul, torch.bmm})

_STEPS: dict[Any, Callable[..., Tensor | None]] = {
    **dict.fromkeys(_PRODUCTS, _times),
    **dict.fromkeys((Tensor.__add__, Tensor.add, torch.add), _plus),
    **dict.fromkeys((Tensor.__mul__, Tensor.__rmul__, Tensor.mul, torch.mul), _scaled),
    **dict.fromkeys((Tensor.view, Tensor.reshape, Tensor.unsqueeze), _seen_as),
    **dict.fromkeys((functional.softmax, torch.softmax, Tensor.softmax), _softmax),
    functional.dropout: _dropout,
}

# What these say is known before anything is computed.
_DESCRIPTIONS = frozenset(
    {
        *(vars(torch._C.TensorBase)[name].__get__ for name in ("shape", "dtype", "device", "ndim")),
        Tensor.size,
        Tensor.dim,
    }
)
