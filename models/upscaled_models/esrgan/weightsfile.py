"""Reads named weights from a file, by content and not by suffix, without running the file's code.

Users also give renamed files, ZIP archives, saved login pages and git-lfs pointers. The error names
what the file is.
Source: https://github.com/huggingface/safetensors#format; `torch.serialization` for the others.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch

from upscaled_imaging.kinds import HEAD_BYTES
from upscaled_models.catalog import NETWORK_SUFFIXES
from upscaled_models.esrgan.standins import allow_standins
from upscaled_models.weightskind import what_it_is_instead
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.lines import has_half_pair

# Headers of published files have up to 1 MB. A larger one is not parsed.
_LONGEST_HEADER = 16 * 1024 * 1024
_ZIP, _PICKLE = b"PK\x03\x04", re.compile(rb"\x80[\x01-\x05]")
# Weights files of other programs, by their first bytes.
_OTHER_WEIGHTS = {
    "an ONNX model": re.compile(rb"\x08[\x01-\x20](\x12|\x1a|\x22|\x3a)"),
    "an ncnn model": re.compile(rb"7767517\s"),
    "a GGUF file": re.compile(rb"GGUF"),
    "a TensorFlow Lite model": re.compile(rb"....TFL3", re.DOTALL),
    "a TensorRT engine": re.compile(rb"ftrt|ptrt"),
    "a Keras or HDF5 file": re.compile(rb"\x89HDF"),
    "a NumPy array": re.compile(rb"\x93NUMPY"),
    "an OpenVINO model": re.compile(rb"\s{0,64}(<\?xml[^>]{0,200}>\s{0,64})?<net\s"),
}
# What torch says of the first byte in a pickle of protocol 4 or 5, which it does not read.
_FRAME = f"Unsupported operand {pickle.FRAME[0]}\n"
_GLOBAL = re.compile(r"(?:GLOBAL|function) (?:<[\w ]{1,40})?([\w.]{1,100})")

allow_standins()


def read_weights(path: Path) -> dict[Any, Any]:
    """The file's contents by name: tensors, and other values that were saved with them.

    Raises `JobError`: model_not_found (no such file), model_corrupt (truncated, altered, or not
    weights), model_unsafe (it would run code), invalid_job (weights for other programs).
    """
    try:
        with path.open("rb") as file:
            weights = _read(path, file)
    except FileNotFoundError:
        raise JobError(ErrorCode.MODEL_NOT_FOUND, f"there is no weights file at {path}") from None
    except (JobError, MemoryError, torch.OutOfMemoryError):
        raise
    except pickle.UnpicklingError as error:
        raise _unpickling_error(path, error) from None
    except Exception as error:  # torch fails anywhere in a foreign file
        raise _truncated(path) from error
    if not isinstance(weights, dict):
        raise useless(path, "it holds no named weights: give a model's state_dict")
    return weights


def read_metadata(path: Path) -> dict[str, str]:
    """What a file in the format of safetensors says about its weights; nothing for any other file.

    The file was read before: its header is right.
    """
    with path.open("rb") as file:
        if not _is_safetensors(file.read(HEAD_BYTES)):
            return {}
        with safetensors.safe_open(_name(path, file), "pt") as weights:
            return dict(weights.metadata() or {})


def useless(path: Path, why: str) -> JobError:
    """The error of a file that cannot be used. why: the reason, and what to do."""
    return JobError(ErrorCode.MODEL_CORRUPT, f"{path.name} is not usable: {why}")


def _is_safetensors(head: bytes) -> bool:
    return int.from_bytes(head[:8], "little") <= _LONGEST_HEADER and head[8:9] == b"{"


def _name(path: Path, file: BinaryIO) -> Path | str:
    """What the library opens: the file's descriptor if its name is not UTF-8, because it does not
    take such a name."""
    return f"/dev/fd/{file.fileno()}" if has_half_pair(str(path)) else path


def _read(path: Path, file: BinaryIO) -> Any:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if _is_safetensors(head):
        return safetensors.torch.load_file(_name(path, file))
    if head.startswith(_ZIP):
        _check_archive(path, file)
    elif not _PICKLE.match(head):
        raise _not_weights(path, head)
    # The open file, because torch would look at the suffix of a path.
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def _check_archive(path: Path, file: BinaryIO) -> None:
    """Refuse a ZIP that is not one of torch's files. torch itself refuses a broken one."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except zipfile.BadZipFile:
        return
    names = [part.filename for part in parts]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise _unsafe(path, "it is TorchScript, which is a program")
    if not any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        inside = next((name for name in names if Path(name).suffix in NETWORK_SUFFIXES), None)
        which = f"the file {Path(inside).name}" if inside else "a file of weights, if one is inside"
        raise useless(path, f"it is a ZIP archive: unpack it, and give {which}")
    # torch compresses nothing. A few kilobytes of a compressed part may become gigabytes.
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise useless(path, "its parts are compressed: get the same model as .safetensors")


def _not_weights(path: Path, head: bytes) -> JobError:
    for name, pattern in _OTHER_WEIGHTS.items():
        if pattern.match(head):
            return JobError(
                ErrorCode.INVALID_JOB,
                f"{path.name} is {name}, which is no weights file for this method: "
                "get the same model as .safetensors or .pth",
            )
    if kind := what_it_is_instead(head):
        return useless(path, kind)
    if path.suffix.lower() in NETWORK_SUFFIXES:
        return _truncated(path)
    return JobError(
        ErrorCode.INVALID_JOB,
        f"{path.name} is no weights file for this method: use .safetensors or .pth",
    )


def _unpickling_error(path: Path, error: pickle.UnpicklingError) -> JobError:
    # torch names what the pickle asked for ("Unsupported global: GLOBAL posix.system ..."). If the
    # bytes are no pickle, it says "Unsupported operand".
    text = str(error)
    if _FRAME in text:
        return useless(
            path, "it is a pickle of protocol 4 or 5: get the same model as .safetensors"
        )
    if "GLOBAL" not in text and "unrecognized function" not in text:
        return _truncated(path)
    wanted = _GLOBAL.search(text)
    return _unsafe(path, f"it asks for {wanted[1]}" if wanted else "it calls a function")


def _truncated(path: Path) -> JobError:
    return useless(path, "it is truncated or altered; fetch the file again")


def _unsafe(path: Path, why: str) -> JobError:
    return JobError(
        ErrorCode.MODEL_UNSAFE,
        f"{path.name} would run code when loaded and was refused ({why}): "
        "get the same model as .safetensors",
    )
