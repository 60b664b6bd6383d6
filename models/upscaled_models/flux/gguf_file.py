"""Reads the headers of GGUF files: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

Only the constants come from the gguf package. Its `GGUFReader` maps the file, and past the end it
reads empty values instead of failing: a file of 51 bytes that claims 2^40 values kept it busy for
longer than a minute. An array of a million values took it 16 s and 730 MB.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from gguf.constants import GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType

from upscaled_models.flux.formats import FORMATS
from upscaled_models.flux.header import Entry, WeightsFile, corrupt, no_weights, open_file

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
# Some tools keep the prefix that the tensors have inside a whole checkpoint.
_PREFIX = "model.diffusion_model."
# The only fields that are needed.
_ARCHITECTURE, _ALIGNMENT = _FIELDS = ("general.architecture", "general.alignment")
# Bytes that are read at once.
_CHUNK = 1 << 20
# Headers of published files have about 60 KB. No more than this is parsed.
_LONGEST_HEADER = 1 << 24
_SCALARS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}


def open_gguf(path: Path, architecture: str) -> WeightsFile:
    """Open a GGUF file of that architecture.

    Raises `JobError`: model_not_found, model_corrupt (also for another architecture).
    """
    descriptor = open_file(path)
    try:
        header = _Header(path, descriptor)
        found = header.fields.get(_ARCHITECTURE)
        if found != architecture:
            raise corrupt(path, f"its architecture is {found!r}, and {architecture!r} is needed")
        return WeightsFile(path, descriptor, header.entries)
    except BaseException:
        os.close(descriptor)
        raise


class _Header:
    """The part of a file before the weights. Every length is checked against the file's length."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._position = 0
        self._buffer = b""
        self._buffer_start = 0
        if os.pread(descriptor, len(_MAGIC), 0) != _MAGIC:
            raise no_weights(path, descriptor, "it is no GGUF file")
        self._take(len(_MAGIC))
        version = self._scalar("<I")
        if version not in _VERSIONS:
            raise corrupt(path, f"its GGUF version is {version}, and 2 or 3 is needed")
        tensors, fields = self._scalar("<Q"), self._scalar("<Q")
        self.fields: dict[str, Any] = {}
        for _ in range(fields):
            name, value = self._string(), self._value(self._scalar("<I"))
            if name in _FIELDS:
                self.fields[name] = value
        described = [self._tensor() for _ in range(tensors)]
        alignment = self.fields.get(_ALIGNMENT, GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise corrupt(path, f"its alignment is {alignment!r}")
        base = -(-self._position // alignment) * alignment
        self.entries = {
            name.removeprefix(_PREFIX): Entry(entry.shape, entry.format, base + entry.offset)
            for name, entry in described
        }
        if len(self.entries) < len(described):
            raise corrupt(path, "it names a tensor twice")

    def _tensor(self) -> tuple[str, Entry]:
        name = self._string()
        dimensions = self._scalar("<I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise corrupt(self._path, f"its tensor {name} has {dimensions} dimensions")
        # Innermost first in the file.
        shape = tuple(self._scalar("<Q") for _ in range(dimensions))[::-1]
        number = self._scalar("<I")
        offset = self._scalar("<Q")
        try:
            kind = GGMLQuantizationType(number).name
        except ValueError:
            kind = f"number {number}"
        if kind not in FORMATS:
            raise corrupt(
                self._path, f"its tensor {name} is of the kind {kind}, which is not read here"
            )
        # Rows are read one by one, so each must be whole blocks, and a vector cannot be quantised.
        if (1 if len(shape) == 1 else shape[-1]) % FORMATS[kind].block_values:
            raise corrupt(self._path, f"its tensor {name} has rows of {shape[-1]} in {kind}")
        return name, Entry(shape, FORMATS[kind], offset)

    def _value(self, kind: int) -> Any:
        if kind == GGUFValueType.STRING:
            return self._string()
        if kind == GGUFValueType.ARRAY:
            inner, count = self._scalar("<I"), self._scalar("<Q")
            if inner == GGUFValueType.STRING:
                for _ in range(count):
                    self._string()
            else:
                self._take(count * struct.calcsize(self._layout(inner)))
            return None  # no field that is needed is an array
        return self._scalar(self._layout(kind))

    def _layout(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise corrupt(self._path, f"its header has a value of the unknown kind {kind}")
        return _SCALARS[GGUFValueType(kind)]

    def _string(self) -> str:
        return self._take(self._scalar("<Q")).decode("utf-8", "replace")

    def _scalar(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end > min(self._size, _LONGEST_HEADER):
            raise corrupt(self._path, "it is truncated within its header, or altered")
        if end > self._buffer_start + len(self._buffer):
            self._buffer = os.pread(self._descriptor, max(count, _CHUNK), self._position)
            self._buffer_start = self._position
        start = self._position - self._buffer_start
        self._position = end
        return self._buffer[start : start + count]
