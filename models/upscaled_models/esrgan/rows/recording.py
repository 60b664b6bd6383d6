"""Records the operations of a network while it is called with a picture that has no pixels.

Only shapes are computed: a network of a thousand operations takes a tenth of a second. Values that
do not depend on the picture (masks, merged weights) are computed as usual.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import functionalize

from upscaled_models.esrgan.rows.shapes import clear_result

aten = torch.ops.aten

KindT = TypeVar("KindT")


class Node:
    """One call, or the source, or a constant: a tensor that does not depend on the picture.

    target: the operation of ATen, or `operator.getitem`; None for the source and for constants.
    args, kwargs: the arguments, with nodes in place of tensors.
    value: the tensor of a constant; otherwise one or several tensors that have no pixels.
    inputs: the nodes among the arguments, each once. users: the calls that read the value.
    """

    __slots__ = ("args", "inputs", "is_constant", "kwargs", "target", "users", "value")

    def __init__(
        self,
        target: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        value: Any,
        *,
        is_constant: bool = False,
    ) -> None:
        self.target = target
        self.args = args
        self.kwargs = kwargs
        self.value = value
        self.is_constant = is_constant
        self.users: list[Node] = []
        self.inputs = list(dict.fromkeys(_leaves((args, kwargs), Node)))


def record(model: Callable[[Tensor], Any], example: Tensor) -> tuple[Node, list[Node]]:
    """The source, and the calls that the result needs, in their order. The last one gives the
    result.

    example: a picture of the right shape, type and device; its pixels are not read.
    Raises what the network raises, for example because it branches on the value of a pixel.
    """
    try:
        return _recorded(model, example)
    except _SharedWriteError:
        # `functionalize` rewrites such calls, and takes several times as long.
        return _recorded(functionalize(model), example)


def map_nodes(tree: Any, change: Callable[[Node], Any]) -> Any:
    """The arguments of a call with `change` applied to each node in them."""
    return _mapped(tree, Node, change)


@torch.no_grad()
def _recorded(model: Callable[[Tensor], Any], example: Tensor) -> tuple[Node, list[Node]]:
    recorder = _Recorder(example.device)
    source = Node(None, (), {}, example.to("meta"))
    result = model(_Recorded(source, recorder))
    if not isinstance(result, _Recorded):
        raise TypeError("its result does not depend on its picture")
    needed = {result.node}
    calls = []
    for node in reversed(recorder.calls):
        if node in needed:
            calls.append(node)
            needed.update(node.inputs)
            for given in node.inputs:
                given.users.append(node)
    return source, calls[::-1]


class _SharedWriteError(Exception):
    """Raised when a call writes into memory that other tensors share."""


class _Recorded(Tensor):
    """A placeholder for a tensor that depends on the picture: on the device, without memory."""

    @staticmethod
    def __new__(cls, node: Node, recorder: _Recorder) -> _Recorded:
        value = node.value
        made: _Recorded = Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), dtype=value.dtype, device=recorder.device
        )
        return made

    def __init__(self, node: Node, recorder: _Recorder) -> None:
        super().__init__()
        self.node = node
        self.recorder = recorder
        # False once another tensor may share its memory.
        self.is_alone = True

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        first = next(_leaves((args, kwargs), _Recorded))
        return first.recorder.call(func, args, kwargs or {})


class _Recorder:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.calls: list[Node] = []
        # By the identity of the tensor. The tensor is kept, so that no other one gets its identity.
        self._constants: dict[int, tuple[Tensor, Node]] = {}
        # The shapes of constants, as tensors without memory.
        self._shapes_of: dict[Node, Tensor] = {}

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Record the call and return a placeholder for its result."""
        functional = _functional(func)
        written = None if functional is func else args[0]
        if written is not None and not (isinstance(written, _Recorded) and written.is_alone):
            raise _SharedWriteError
        named = _mapped(kwargs, Tensor, self._node) if kwargs else kwargs
        node = self._add(functional, _mapped(args, Tensor, self._node), named)
        if written is not None:
            written.node = node
            return written
        if isinstance(node.value, Tensor):
            return self._as_tensor(func, node, args)
        parts = [self._add(operator.getitem, (node, i), {}) for i in range(len(node.value))]
        return [self._as_tensor(func, part, args) for part in parts]

    def _add(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Node:
        node = Node(func, args, kwargs, self._shapes(func, args, kwargs))
        self.calls.append(node)
        return node

    def _shapes(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The result of the call as tensors without memory."""
        given = map_nodes(args, self._shape)
        clear = clear_result(func, given)
        return func(*given, **map_nodes(kwargs, self._shape)) if clear is None else clear

    def _shape(self, node: Node) -> Any:
        return self._shapes_of[node] if node.is_constant else node.value

    def _node(self, tensor: Tensor) -> Node:
        if isinstance(tensor, _Recorded):
            return tensor.node
        if id(tensor) not in self._constants:
            node = Node(None, (), {}, tensor.detach(), is_constant=True)
            self._constants[id(tensor)] = tensor, node
            self._shapes_of[node] = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
            )
        return self._constants[id(tensor)][1]

    def _as_tensor(self, func: Any, node: Node, args: Sequence[Any]) -> _Recorded:
        tensor = _Recorded(node, self)
        if _is_view(func):
            tensor.is_alone = False
            for source in _leaves(args, _Recorded):
                source.is_alone = False
        return tensor


def _leaves(tree: Any, kind: type[KindT]) -> Iterator[KindT]:
    """The arguments of that kind, also those inside lists and dicts."""
    if isinstance(tree, kind):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _leaves(item, kind)
    elif isinstance(tree, dict):
        yield from _leaves(list(tree.values()), kind)


def _mapped(tree: Any, kind: type[KindT], change: Callable[[KindT], Any]) -> Any:
    if isinstance(tree, kind):
        return change(tree)
    if isinstance(tree, list | tuple):
        return type(tree)([_mapped(item, kind, change) for item in tree])
    if isinstance(tree, dict):
        return {name: _mapped(item, kind, change) for name, item in tree.items()}
    return tree


@cache
def _functional(func: Any) -> Any:
    """The operation that gives the same result without writing to its first argument; the operation
    itself if it writes nothing."""
    schema = func._schema
    if not schema.is_mutable:
        return func
    first, *others = schema.arguments
    name = schema.name.removeprefix("aten::")
    if any(one.is_write for one in others) or not (first.is_write and name.endswith("_")):
        raise _SharedWriteError
    return getattr(getattr(aten, name[:-1]), func._overloadname)


@cache
def _is_view(func: Any) -> bool:
    """True if a result shares its memory with an argument."""
    return any(one.alias_info is not None for one in func._schema.returns)
