"""Loads weights from a file into a module that was built without weights."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from upscaled_models.flux.formats import Format, expand
from upscaled_models.flux.header import WeightsFile, corrupt
from upscaled_models.flux.names import OriginOf

# Called with the number of loaded tensors and of all tensors. It may raise.
EachTensor = Callable[[int, int], None]


class StoredLinear(nn.Module):
    """A linear layer that keeps its weights in the file's format, and expands them at each use.

    Computes in its input's precision.
    """

    def __init__(
        self, stored: Tensor, format_: Format, shape: tuple[int, int], bias: Tensor | None
    ) -> None:
        super().__init__()
        # Parameters, although they are bytes: group offloading moves no buffers back to the host,
        # so with streams they would fill the device.
        self.stored = nn.Parameter(stored, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.format = format_
        self.shape = shape
        # transformers reads the precision of a linear layer's weights.
        self.weight = None

    def forward(self, values: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        weight = expand(self.stored, self.format, self.shape, values.dtype)
        bias = None if self.bias is None else self.bias.to(values.dtype)
        return functional.linear(values, weight, bias)


@dataclass(frozen=True)
class _Piece:
    """The rows of one tensor in the file that make up a parameter, in this order."""

    name: str
    rows: tuple[tuple[int, int], ...]


def check_weights(
    module: nn.Module, file: WeightsFile, origin_of: OriginOf, ignored: Collection[str] = ()
) -> None:
    """Compare a file's header with what the module needs. Tensors in `ignored` are optional.

    Raises `JobError` (model_corrupt), naming the first tensor that is missing, of another shape,
    or left over.
    """
    needed = {name: shape for name, (shape, _) in _needed(module, origin_of).items()}
    for name, shape in needed.items():
        entry = file.entries.get(name)
        if entry is None:
            raise corrupt(file.path, f"it lacks the tensor {name}")
        if _flat(entry.shape) != _flat(shape):
            raise corrupt(
                file.path,
                f"its tensor {name} has the shape {entry.shape}, and {shape} is needed",
            )
    for name in file.entries:
        if name not in needed and name not in ignored:
            raise corrupt(file.path, f"it has a tensor {name} that this model does not know")


def load_weights(
    module: nn.Module,
    file: WeightsFile,
    origin_of: OriginOf,
    *,
    device: torch.device,
    dtype: torch.dtype,
    each: EachTensor,
    keep_stored: bool = False,
) -> None:
    """Read, move and expand the weights of a module on the meta device, one tensor after the other.

    Call `check_weights` before. keep_stored: linear layers whose weights are not in `dtype` become
    a `StoredLinear`. Raises what `each` raises.
    """
    pieces = {
        parameter: piece
        for _, parts in _needed(module, origin_of).values()
        for parameter, piece in parts
    }
    linears = {name for name, layer in module.named_modules() if type(layer) is nn.Linear}
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
    for done, (parameter, piece) in enumerate(pieces.items(), 1):
        entry = file.entries[piece.name]
        parts = [file.rows(piece.name, *rows) for rows in piece.rows]
        stored = parts[0] if len(parts) == 1 else torch.cat(parts)
        stored = stored.to(device)
        owner, _, kind = parameter.rpartition(".")
        shape = shapes[parameter]
        keep = keep_stored and entry.format.dtype != dtype
        if keep and kind == "weight" and owner in linears:
            bias = module.get_submodule(owner).bias
            assert len(shape) == 2
            linear = StoredLinear(stored, entry.format, shape, bias)  # type: ignore[arg-type]
            module.set_submodule(owner, linear)
        else:
            value = expand(stored, entry.format, shape, dtype)
            setattr(module.get_submodule(owner), kind, nn.Parameter(value, requires_grad=False))
        each(done, len(pieces))
    module.eval().requires_grad_(False)


def _needed(
    module: nn.Module, origin_of: OriginOf
) -> dict[str, tuple[tuple[int, ...], list[tuple[str, _Piece]]]]:
    """Per tensor of the file: its shape, and the parameters that it holds."""
    fused: dict[str, list[tuple[int, str, tuple[int, ...], bool]]] = {}
    for parameter, value in module.named_parameters():
        origin = origin_of(parameter)
        shape = tuple(value.shape)
        fused.setdefault(origin.name, []).append((origin.part, parameter, shape, origin.swapped))
    return {name: _cut(name, sorted(parts)) for name, parts in fused.items()}


def _cut(
    name: str, parts: list[tuple[int, str, tuple[int, ...], bool]]
) -> tuple[tuple[int, ...], list[tuple[str, _Piece]]]:
    start, cut = 0, []
    for _, parameter, shape, swapped in parts:
        stop, middle = start + shape[0], start + shape[0] // 2
        rows = ((middle, stop), (start, middle)) if swapped else ((start, stop),)
        cut.append((parameter, _Piece(name, rows)))
        start = stop
    return (start, *parts[0][2][1:]), cut


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without ones at its end: a linear layer may be stored as a 1x1 convolution."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
