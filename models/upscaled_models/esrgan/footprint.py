"""Measures the memory of a network's intermediate results while it runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Footprint(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts the bytes of tensors that were created since and still exist.

    peak_bytes: the highest count. Scratch memory inside kernels is not counted.
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
    # oneDNN's packed weights are tensors whose storage cannot be read. They are not results.
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and not leaf.is_mkldnn]


def _storage(tensor: Tensor) -> Any:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _lives(storage: Any) -> bool:
    return not storage.expired()
