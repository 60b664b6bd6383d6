"""Measures the memory of a network's intermediate results."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from upscaled_models.esrgan.loading import Descriptor


class Footprint(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts the bytes of tensors that were created since and still exist.

    peak_bytes: the highest count. Scratch memory inside kernels is not counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._alive: dict[Any, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: nothing is compiled here, and to exclude a mode torch imports its compiler."""
        return False

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


def footprint_by_shapes(descriptor: Descriptor, shape: Sequence[int]) -> int | None:
    """The memory that a float32 network takes for a picture of this shape, by the shapes of its
    results: nothing is computed. None if the network needs values, for example to branch on."""
    model = descriptor.model
    shapes = {id(one): one.detach().to("meta") for one in (*model.parameters(), *model.buffers())}
    described = deepcopy(descriptor, shapes)
    try:
        with torch.inference_mode(), torch.device("meta"), Footprint() as footprint:
            described(torch.zeros(tuple(shape)))
    except Exception:  # noqa: BLE001 - a network may do anything in its forward
        return None
    peak_bytes: int = footprint.peak_bytes
    return peak_bytes


def _tensors(tree: Any) -> list[Tensor]:
    # oneDNN's packed weights are tensors whose storage cannot be read. They are not results.
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and not leaf.is_mkldnn]


def _storage(tensor: Tensor) -> Any:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _lives(storage: Any) -> bool:
    return not storage.expired()
