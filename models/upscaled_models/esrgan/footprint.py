"""Measures the memory of a network's intermediate results."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from copy import deepcopy
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from upscaled_models import torchparts
from upscaled_models.esrgan.attention import FusedAttention
from upscaled_models.esrgan.loading import Descriptor
from upscaled_models.esrgan.rows.shapes import clear_result


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
        tensors = _tensors((args, kwargs))
        given = {_storage(tensor) for tensor in tensors}
        clear = clear_result(func, args) if tensors and tensors[0].is_meta else None
        result = func(*args, **(kwargs or {})) if clear is None else _like(clear)
        for tensor in _tensors(result):
            storage = _storage(tensor)
            if storage not in given:
                self._alive[storage] = tensor.untyped_storage().nbytes()
        self.peak_bytes = max(self.peak_bytes, self.alive_bytes())
        return result

    def alive_bytes(self) -> int:
        """The bytes of the tensors that exist now."""
        self._alive = {storage: size for storage, size in self._alive.items() if _lives(storage)}
        return sum(self._alive.values())


def footprint_by_shapes(descriptor: Descriptor, shape: Sequence[int]) -> int | None:
    """The memory that a float32 network takes for a picture of this shape, by the shapes of its
    results: nothing is computed. None if the network needs values, for example to branch on."""
    model = descriptor.model
    shapes = {id(one): one.detach().to("meta") for one in (*model.parameters(), *model.buffers())}
    described = deepcopy(descriptor, shapes)
    footprint = Footprint()
    try:
        _run_repeated_layers_once(described.model, footprint)
        with torchparts.without_compiler(), torch.inference_mode(), torch.device("meta"), footprint:
            picture = torch.zeros(tuple(shape))
            with FusedAttention():
                described._call_fn(described.model, picture)
    except Exception:  # noqa: BLE001 - a network may do anything in its forward
        return None
    return footprint.peak_bytes


class _RepeatedLayer:
    """Takes the place of a layer's `forward`. If a layer of the same build has already run on
    arguments of these shapes, nothing runs: the result and the peak are that layer's.

    build: equal for layers of the same build. known: what is known of the network's layers.
    """

    def __init__(
        self, layer: nn.Module, build: Hashable, footprint: Footprint, known: dict[Any, _Run]
    ) -> None:
        self._forward = layer.forward
        self._build = build
        self._footprint = footprint
        self._known = known

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        footprint = self._footprint
        key = (self._build, _build((args, kwargs)))
        before_bytes = footprint.alive_bytes()
        run = self._known.get(key)
        if run is not None:
            footprint.peak_bytes = max(footprint.peak_bytes, before_bytes + run.peak_bytes)
            return torch.empty_strided(run.shape, run.stride, dtype=run.dtype)
        peak_bytes, footprint.peak_bytes = footprint.peak_bytes, before_bytes
        result = self._forward(*args, **kwargs)
        layer_bytes = footprint.peak_bytes - before_bytes
        footprint.peak_bytes = max(footprint.peak_bytes, peak_bytes)
        # A layer that keeps something, or gives a part of what it got, has to run each time.
        if isinstance(result, Tensor) and (
            result.nbytes
            == result.untyped_storage().nbytes()
            == footprint.alive_bytes() - before_bytes
        ):
            self._known[key] = _Run(layer_bytes, result.shape, result.stride(), result.dtype)
        return result


class _Run(NamedTuple):
    """The peak of a layer beyond what existed before it, and its result."""

    peak_bytes: int
    shape: Sequence[int]
    stride: Sequence[int]
    dtype: torch.dtype


def _run_repeated_layers_once(model: nn.Module, footprint: Footprint) -> None:
    """Most layers of a transformer are built like others. To run all takes most of the time."""
    layers = [
        layer
        for parent in model.modules()
        if isinstance(parent, nn.ModuleList | nn.Sequential)
        for layer in parent
        if any(layer.children())
    ]
    builds = [_build(layer) for layer in layers]
    known: dict[Any, _Run] = {}
    for layer, build in zip(layers, builds, strict=True):
        layer.forward = _RepeatedLayer(layer, build, footprint, known)


def _build(value: Any) -> Hashable:
    """Equal for modules and arguments that take the same memory."""
    if isinstance(value, nn.Module):
        # In evaluation mode it gives what it gets; its only attribute differs in each layer.
        if type(value).__name__ in ("DropPath", "Identity"):
            return None
        return type(value), _build(vars(value))
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, list | tuple | set):
        return type(value), tuple(map(_build, value))
    # Equal numbers of different types may be used differently.
    plain = value is None or isinstance(value, bool | int | float | str | type | FunctionType)
    return (type(value), value) if plain else (type(value), id(value))


def _tensors(tree: Any) -> list[Tensor]:
    # oneDNN's packed weights are tensors whose storage cannot be read. They are not results.
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and not leaf.is_mkldnn]


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    )


def _storage(tensor: Tensor) -> Any:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _lives(storage: Any) -> bool:
    return not storage.expired()
