"""Model calls that end after the first block, where it hardly differs from an earlier call's.

First-block caching (ParaAttention, chengzeyi) as diffusers has it: what the blocks after the first
one added in the last full call is added again instead of computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from upscaled_models.flux.libraries import FirstBlockCacheConfig, HookRegistry, ModelHook

_COUNTER = "upscaled_full_calls"


class FullCalls(ModelHook):  # type: ignore[misc]
    """Counts the calls in which the last block was computed, and so all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def pre_forward(
        self, _module: Any, *given: Any, **named: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Called by diffusers before the block is, with what the block is given."""
        self.count += 1
        return given, named


@contextmanager
def caching_blocks(module: Any, threshold: float) -> Iterator[FullCalls]:
    """Meanwhile calls of a `FluxTransformer2DModel` are cut short, the first one never.

    threshold: the change of the first block's contribution since the last full call, as a share of
    it (absolute means), up to which a call is cut short. All calls are of one shape. The module is
    left as it was, whatever happens: it holds nothing of these calls, and no hook.
    """
    calls = FullCalls()
    last = HookRegistry.check_if_exists_or_initialize(module.single_transformer_blocks[-1])
    # Below the cache's own hook, which calls it where it calls the block.
    last.register_hook(calls, _COUNTER)
    try:
        module.enable_cache(FirstBlockCacheConfig(threshold))
        try:
            with module.cache_context("tile"):
                yield calls
        finally:
            module.disable_cache()
    finally:
        last.remove_hook(_COUNTER, recurse=False)
