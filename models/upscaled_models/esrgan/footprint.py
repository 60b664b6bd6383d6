"""Memory that a network's intermediate results take, counted while it runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Footprint(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, while active, the bytes of tensors that were made since and are still alive.

    peak_bytes: the most there were. What kernels take for themselves is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._alive: dict[Any, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(tensor) for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = _storage(tensor)
            if storage not in given:
                self._alive[storage] = tensor.untyped_storage().nbytes()
        self._alive = {storage: size for storage, size in self._alive.items() if _lives(storage)}
        self.peak_bytes = max(self.peak_bytes, sum(self._alive.values()))
        return result


def _tensors(tree: Any) -> list[Tensor]:
    # oneDNN's weights are tensors without a storage that could be looked at; they are no results.
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and not leaf.is_mkldnn]


def _storage(tensor: Tensor) -> Any:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _lives(storage: Any) -> bool:
    return not storage.expired()
