"""The transformer's blocks compiled by torch, where the operator asks for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

_Forward = Callable[..., Any]


class CompiledBlocks:
    """The blocks of a `FluxTransformer2DModel`: each is compiled when it is first called.

    All blocks of a kind share what is compiled. It fits any number of tokens, and there is one for
    a single tile and one for several: no more of it, however many shapes a job has.
    """

    def __init__(self, module: Any) -> None:
        self._in_use = True
        for block in (*module.transformer_blocks, *module.single_transformer_blocks):
            # The forward alone: hooks (offloading, the block cache) come around it later, and
            # would have each block compiled for itself.
            block.forward = self._switched(block.forward)

    def give_up(self) -> None:
        """From here on the blocks run as they did before."""
        self._in_use = False

    def _switched(self, plain: _Forward) -> _Forward:
        compiled = torch.compile(plain, dynamic=True)

        @functools.wraps(plain)
        def forward(*given: Any, **named: Any) -> Any:
            return (compiled if self._in_use else plain)(*given, **named)

        return forward
