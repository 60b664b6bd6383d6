"""Compiled 3x3 convolutions (`convolution.h`), which read and write some of the channels of a
buffer, so that dense blocks need no copies.

In float32 they take a quarter of the multiplications (`winograd.c`), in bf16 they run on AMX
(`amx.c`).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from upscaled_models.esrgan.compiled import library

# As in `convolution.h`.
ADDENDS = 2
# Outputs are filled up with zeros to a multiple of it.
_CHANNELS = 16
# With fewer torch is as fast, and `amx.c` copies so many at once.
_LEAST_INPUTS = 16
# As in `winograd.c`. Rows of results that are computed together, from one row of tiles.
_POINTS = 36
TILE_ROWS = 4
# As in `amx.c`: inputs that are multiplied at once.
_DEPTH = 32

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_ssize_t


class _Addend(ctypes.Structure):
    _fields_ = (
        ("rows", _POINTER),
        ("row", _COUNT),
        ("pixel", _COUNT),
        ("scale", ctypes.c_float),
    )


class _Convolution(ctypes.Structure):
    _fields_ = (
        ("in", _POINTER),
        ("in_row", _COUNT),
        ("in_pixel", _COUNT),
        ("out", _POINTER),
        ("out_row", _COUNT),
        ("out_pixel", _COUNT),
        *((name, _POINTER) for name in ("weights", "bias", "slopes")),
        ("addends", _Addend * ADDENDS),
        *((name, _COUNT) for name in ("width", "inputs", "outputs")),
        *((name, _COUNT) for name in ("top", "bottom", "first", "last", "grid")),
        ("shift", ctypes.c_int),
        ("margin", ctypes.c_int),
    )


class Rows(NamedTuple):
    """Rows of a picture, (C, h, W), channels last in memory. The first one is row `start`.

    has_margin: a pixel of zeros lies to the left and to the right of each row.
    """

    values: Tensor
    start: int
    has_margin: bool = False

    def of_row_0(self) -> tuple[int, int, int]:
        """The address of row 0, which need not be in memory, and the strides."""
        channel, row, pixel = self.values.stride()
        if channel != 1:
            raise ValueError("the channels of a pixel do not lie side by side")
        step = row * self.values.itemsize
        return self.values.data_ptr() - self.start * step, row, pixel


class Addend(NamedTuple):
    """Rows that are added to a result after the result was multiplied by `scale`."""

    rows: Rows
    scale: float


def fits(weight: Tensor, dtype: torch.dtype) -> bool:
    """True if this processor has a compiled convolution in `dtype` for such weights, (outputs,
    inputs, 3, 3)."""
    inputs, *sides = weight.shape[1:]
    return (
        weight.device.type == "cpu"
        and sides == [3, 3]
        and inputs >= _LEAST_INPUTS
        and kernel(dtype) is not None
    )


def kernel(dtype: torch.dtype) -> str | None:
    """The name of the compiled function that computes in `dtype` on this processor, if any."""
    if dtype == torch.float32 and library.lanes():
        return "convolve_float"
    if dtype == torch.bfloat16 and library.available() and library.loaded().convolves_bf16():
        return "convolve_bf16"
    return None


class PackedConvolution:
    """A convolution with a zero padding of one pixel. Its weights are laid out when it first runs:
    while a network is loaded, with one thread at work, that would take most of the time.

    kernel: the compiled function. slopes: of a PReLU that follows it, per output channel.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, slopes: Tensor | float, dtype: torch.dtype
    ) -> None:
        name = kernel(dtype)
        assert name is not None
        self.kernel = name
        self.outputs, self.inputs = weight.shape[:2]
        self._weight, self._dtype = weight, dtype
        self._packed: Tensor | None = None
        every = torch.ones(self.outputs)
        self._bias = 0 * every if bias is None else bias.float()
        self._slopes = every * slopes

    def with_outputs(self, order: Tensor) -> PackedConvolution:
        """The convolution with its output channels in another order, before it first runs."""
        return PackedConvolution(
            self._weight[order], self._bias[order], self._slopes[order], self._dtype
        )

    @property
    def extra_bytes(self) -> int:
        """Memory of the weights beyond the size of the network's own parameters."""
        exact = self._dtype == torch.float32
        taken = _POINTS * self.inputs if exact else 3 * _DEPTH * _pieces(self.inputs)
        outputs = self.outputs + _missing(self.outputs)
        return taken * outputs * self._dtype.itemsize - self.own_bytes

    @property
    def own_bytes(self) -> int:
        """Size of the network's own parameters, in this precision."""
        return 9 * self.inputs * self.outputs * self._dtype.itemsize

    def lay_out(self) -> None:
        """Lay out the weights, if that was not done yet."""
        if self._packed is None:
            pack = _in_points if self._dtype == torch.float32 else _in_pairs
            self._packed = pack(_filled_up(self._weight), self._dtype)
            self._bias, self._slopes = _filled_up(self._bias), _filled_up(self._slopes)
            del self._weight

    def call(self, rows: Convolved) -> _Convolution:
        """What the compiled function is given."""
        self.lay_out()
        assert self._packed is not None
        call = _Convolution(
            *rows.source.of_row_0(),
            *rows.out.of_row_0(),
            self._packed.data_ptr(),
            self._bias.data_ptr(),
            self._slopes.data_ptr(),
            width=rows.out.values.shape[2],
            inputs=self.inputs,
            outputs=self.outputs,
            top=rows.source.start << rows.is_doubled,
            bottom=rows.until,
            first=rows.first,
            last=rows.last,
            grid=rows.grid,
            shift=rows.is_doubled,
            margin=rows.source.has_margin,
        )
        for place, addend in zip(call.addends, rows.addends, strict=False):
            place.rows, place.row, place.pixel = addend.rows.of_row_0()
            place.scale = addend.scale
        return call


class Convolved(NamedTuple):
    """Rows `first` to `last` of a convolution's result, `out`.

    until: the end of the source's rows that are computed. Rows beyond it, and rows above the
    source's first, count as zero. grid: the first row of the tiles, at most `TILE_ROWS - 1` above
    `first`; the same tiles give the same bits. is_doubled: the source is read at twice its width
    and height, each pixel four times; `until` is then a row of the doubled source.
    """

    convolution: PackedConvolution
    source: Rows
    out: Rows
    until: int
    first: int
    last: int
    grid: int
    addends: Sequence[Addend] = ()
    is_doubled: bool = False


def convolve(several: Sequence[Convolved]) -> None:
    """Compute rows of results. Each may read those before it."""
    calls = [rows.convolution.call(rows) for rows in several]
    every = (_Convolution * len(calls))(*calls)
    name = several[0].convolution.kernel
    if not library.call(name, ctypes.addressof(every), len(calls)):
        raise MemoryError("there is no memory for a convolution's tiles")


def _missing(outputs: int) -> int:
    """Outputs to the next multiple of `_CHANNELS`."""
    return -outputs % _CHANNELS


def _filled_up(given: Tensor) -> Tensor:
    """Weights, bias or slopes with zeros for the missing outputs."""
    zeros = given.new_zeros(_missing(len(given)), *given.shape[1:])
    return torch.cat([given, zeros])


def _in_points(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights in the layout of `convolve_float`."""
    outputs, inputs = weight.shape[:2]
    packed = torch.empty(_POINTS, inputs, outputs, dtype=dtype)
    library.call("pack_float", weight.to(dtype).contiguous(), outputs, inputs, packed)
    return packed


def _pieces(inputs: int) -> int:
    """How often `_DEPTH` inputs are multiplied for each row of a kernel."""
    return math.ceil(3 * inputs / _DEPTH)


def _in_pairs(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights in the layout of `convolve_bf16`."""
    outputs, inputs = weight.shape[:2]
    rows = weight.to(dtype).permute(0, 2, 3, 1)
    pieces = _pieces(inputs)
    if inputs % _DEPTH == 0:
        # The same inputs of the three columns follow each other.
        rows = rows.reshape(outputs, 3, 3, inputs // _DEPTH, _DEPTH).transpose(2, 3)
    rows = rows.reshape(outputs, 3, 3 * inputs)
    if missing := pieces * _DEPTH - 3 * inputs:
        # The last piece begins inside the one before it, and its first weights are zero.
        start = 3 * inputs - _DEPTH + missing
        zeros = rows.new_zeros(outputs, 3, missing)
        rows = torch.cat([rows[:, :, :start], zeros, rows[:, :, start:]], 2)
    tiles = rows.view(outputs // _CHANNELS, _CHANNELS, 3, pieces, _DEPTH // 2, 2)
    return tiles.permute(0, 3, 2, 4, 1, 5).contiguous()
