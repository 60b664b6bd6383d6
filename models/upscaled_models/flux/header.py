"""Weights files: their headers, and their bytes, row by row.

The whole header is checked before any weight is read. Weights are read and not mapped: if the file
is cut short meanwhile, that is then an error and not a SIGBUS, and pages that were read do not stay
resident.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from upscaled_imaging.kinds import HEAD_BYTES
from upscaled_models.flux.formats import FORMATS, Format
from upscaled_models.weightskind import what_it_is_instead
from upscaled_protocol.errors import ErrorCode, JobError

# Headers of published files have about 30 KB. A larger one is not parsed, because its JSON takes
# several times as much memory.
_LONGEST_HEADER = 4 * 1024 * 1024
_LENGTH_BYTES = 8
_MOST_DIMENSIONS = 8
# Characters of an error's reason. Names in a file may be as long as its header.
_LONGEST_REASON = 300
# The most that Linux reads in one call, rounded down to whole pages.
_LONGEST_READ = 2**30


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its shape, outermost dimension first, and its first byte."""

    shape: tuple[int, ...]
    format: Format
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes per index of the first dimension."""
        return math.prod(self.shape[1:]) * self.format.block_bytes // self.format.block_values

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * self.format.block_bytes // self.format.block_values


class WeightsFile:
    """An open weights file of any kind, whose header was checked."""

    def __init__(self, path: Path, descriptor: int, entries: Mapping[str, Entry]) -> None:
        self.path = path
        self.entries = entries
        self._descriptor = descriptor
        size = os.fstat(descriptor).st_size
        for name, entry in entries.items():
            end = entry.offset + entry.size_bytes
            if end > size:
                raise corrupt(
                    path, f"it is truncated: the tensor {name} ends at byte {end} of {size}"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of a tensor as they lie in the file: (stop - start, row bytes) of
        uint8. Raises `JobError` (model_corrupt) if the file is shorter by now."""
        entry = self.entries[name]
        data = np.empty((stop - start, entry.row_bytes), np.uint8)
        view = memoryview(data.data).cast("B") if data.size else memoryview(b"")
        offset = entry.offset + start * entry.row_bytes
        while len(view):
            count = os.preadv(self._descriptor, [view[:_LONGEST_READ]], offset)
            if count == 0:
                raise corrupt(self.path, f"it ended within the tensor {name} while it was read")
            view, offset = view[count:], offset + count
        return torch.from_numpy(data)


def open_safetensors(path: Path) -> WeightsFile:
    """Open a .safetensors file. Raises `JobError`: model_not_found, model_corrupt.

    Format: https://github.com/huggingface/safetensors#format
    """
    descriptor = open_file(path)
    try:
        return WeightsFile(path, descriptor, _safetensors_entries(path, descriptor))
    except BaseException:
        os.close(descriptor)
        raise


def open_file(path: Path) -> int:
    """A descriptor of the file. Raises `JobError` (model_not_found)."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise JobError(
            ErrorCode.MODEL_NOT_FOUND, f"{path} cannot be read: {error.strerror}"
        ) from None


def corrupt(path: Path, why: str) -> JobError:
    """The error of a file that cannot be used: one line, even if names in the file are longer."""
    reason = "".join(letter if letter.isprintable() else "?" for letter in why[:_LONGEST_REASON])
    return JobError(
        ErrorCode.MODEL_CORRUPT, f"{path.name} is not usable: {reason}; fetch the file again"
    )


def no_weights(path: Path, descriptor: int, otherwise: str) -> JobError:
    """The error of a file that does not begin as it should: its kind, or `otherwise`."""
    kind_of_file = what_it_is_instead(os.pread(descriptor, HEAD_BYTES, 0))
    if kind_of_file is None:
        return corrupt(path, otherwise)
    return JobError(ErrorCode.MODEL_CORRUPT, f"{path.name} is not usable: {kind_of_file}")


def _safetensors_entries(path: Path, descriptor: int) -> dict[str, Entry]:
    length = int.from_bytes(os.pread(descriptor, _LENGTH_BYTES, 0), "little")
    if not 0 < length <= _LONGEST_HEADER:
        raise no_weights(path, descriptor, "it has no header of a safetensors file")
    text = os.pread(descriptor, length, _LENGTH_BYTES)
    if len(text) < length:
        raise corrupt(path, "it is truncated within its header")
    size = os.fstat(descriptor).st_size
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        return {
            name: _safetensors_entry(path, name, described, _LENGTH_BYTES + length, size)
            for name, described in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise corrupt(path, "its header is altered") from None


def _safetensors_entry(
    path: Path, name: str, described: dict[str, Any], base: int, size: int
) -> Entry:
    kind, shape = described["dtype"], described["shape"]
    first, last = described["data_offsets"]
    if kind not in FORMATS:
        raise corrupt(path, f"its tensor {name} is of the kind {kind}, which is not read here")
    # Before they are computed with: numbers in JSON may have thousands of digits.
    if not all(type(number) is int and 0 <= number <= size for number in (*shape, first, last)):
        if last > size:
            raise corrupt(path, f"it is truncated: the tensor {name} ends after byte {size}")
        raise ValueError(name)
    entry = Entry(tuple(shape), FORMATS[kind], base + first)
    if len(shape) > _MOST_DIMENSIONS or last - first != entry.size_bytes:
        raise corrupt(path, f"its header gives the tensor {name} {last - first} bytes")
    return entry
