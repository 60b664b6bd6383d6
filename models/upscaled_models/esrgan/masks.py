"""Masks of windows, made once for a tile. Networks of shifted windows make one in each layer, and
all layers of a kind make the same: that took an eighth of the time of SwinIR and of DAT."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import CodeType
from typing import Any

import torch
from torch import nn

# The name that these modules give it, from Swin Transformer on.
_METHOD = "calculate_mask"
_SIMPLE = (int, float, str, torch.dtype, type(None))

# Those of the tile in hand.
_made: ContextVar[dict[Hashable, Any] | None] = ContextVar("masks", default=None)


def share_masks(model: nn.Module) -> None:
    """From now on the classes of its modules share masks, while `masks_of_a_tile` is active."""
    for kind in {type(module) for module in model.modules()}:
        make = getattr(kind, _METHOD, None)
        if inspect.isfunction(make) and not hasattr(make, "__wrapped__"):
            setattr(kind, _METHOD, _shared(make))


@contextmanager
def masks_of_a_tile() -> Iterator[None]:
    """Keep masks until the context is left."""
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


def _shared(make: Callable[..., Any]) -> Callable[..., Any]:
    names = sorted(_names(make.__code__))

    @wraps(make)
    def shared(module: nn.Module, *args: Any, **options: Any) -> Any:
        made = _made.get()
        read = [(name, getattr(module, name, None)) for name in names]
        given = [*args, *options.items(), *(one for one in read if not callable(one[1]))]
        if made is None or not _is_simple(given):
            return make(module, *args, **options)
        key = make, repr(given)
        if key not in made:
            made[key] = make(module, *args, **options)
        return made[key]

    return shared


def _names(code: CodeType) -> set[str]:
    """All that a function may read of its module."""
    inner = (_names(one) for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*inner)


def _is_simple(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_simple, value))
    return isinstance(value, _SIMPLE)
