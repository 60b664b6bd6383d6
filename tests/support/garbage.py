"""Finds what only Python's collector would free: it comes late, and pictures are large."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from upscaled_imaging.read import Source
from upscaled_models.picture import Enlargement


@contextmanager
def without_garbage() -> Iterator[None]:
    """Fails if what ran inside left pictures or tensors that hold each other."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = Counter(type(item).__name__ for item in gc.garbage if issubclass(type(item), _LARGE))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left


_LARGE = (Tensor, Source, Enlargement)
