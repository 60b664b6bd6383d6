"""Makes a job of one call's input, output and options, and the caller's result of the job's."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, Generic, TypeVar

from upscaled.errors import local_error
from upscaled.messages import Message
from upscaled.protocol import Options, Progress
from upscaled.result import Result
from upscaled.scratch import ScratchFile

T = TypeVar("T")

# By name, so that Pillow and numpy are imported only for callers that use them.
_CLASSES = frozenset({"PIL.Image.Image", "numpy.ndarray"})

# URLs that an output can have: objects of a storage, and a presigned URL.
_OUTPUT_SCHEMES = ("https://", "s3://", "gs://", "az://")

_JOB_FIELDS = ("job_id", "priority", "timeout_s", "max_attempts")


class CallOptions(Options, total=False):
    """The options of one call."""

    # esrgan (the default), flux, imagen or face.
    method: str
    # The enlargement of each side; `upscale_factor` is the same.
    factor: float
    # Called with each progress, in the reader's thread: it must not wait.
    on_progress: Callable[[Progress], None]
    # Default: a random one.
    job_id: str
    # Higher first; equals in order.
    priority: int
    # From acceptance to the end; then the call fails with `DeadlineExceededError`.
    timeout_s: float
    # Starts allowed before a job that takes its worker down is given up.
    max_attempts: int


@dataclass(frozen=True)
class Request(Generic[T]):
    """A job, and how its result is made. discard: call it once the job has ended."""

    job: Message
    make_result: Callable[[Message], Result[T]]
    on_progress: Callable[[Progress], None] | None
    discard: Callable[[], None]


def is_path(picture: object) -> bool:
    """True if the input is a path, which takes no time to read."""
    return isinstance(picture, str | os.PathLike)


def request_of(picture: Any, output: Any, options: CallOptions, *, by_file: bool) -> Request[Any]:
    """Make the job. A picture in memory is sent by a temporary file, or in the job's line if not
    `by_file`.

    Raises `TypeError` if the class of the input or the output is not supported, `ValueError` if the
    picture is not, and `OSError` if the input cannot be read.
    """
    config: Message = {**options}
    method = config.pop("method", "esrgan")
    on_progress = config.pop("on_progress", None)
    job: Message = {name: config.pop(name) for name in _JOB_FIELDS if name in config}
    if "factor" in config:
        if "upscale_factor" in config:
            raise TypeError("factor and upscale_factor mean the same: give one of them")
        factor = config.pop("factor")
        config["upscale_factor"] = f"x{factor:g}" if method == "imagen" else factor
    if output is None and not is_path(picture):
        output = _class_of(picture)
    taken = _take_input(picture, by_file=by_file)
    made = _take_output(output, config, by_file=by_file)
    config |= taken.config | made.config
    job |= {"method": method, "config": config}
    return Request(job, made.make_result, on_progress, taken.discard)


@dataclass(frozen=True)
class _Input:
    config: Message
    discard: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class _Output:
    config: Message
    make_result: Callable[[Message], Result[Any]]


def _take_input(picture: Any, *, by_file: bool) -> _Input:
    if is_path(picture):
        path = os.fsdecode(picture)
        if path.startswith(("http://", *_OUTPUT_SCHEMES)):
            return _Input({"image_url": path})
        # The daemon may run in another folder; a link is kept as it is.
        return _Input({"image_path": os.path.abspath(path)})  # noqa: PTH100
    if by_file:
        try:
            scratch = _scratch_file(picture)
        except OSError:
            if hasattr(picture, "read") and not picture.seekable():
                raise
        else:
            return _Input({"image_path": str(scratch.path)}, scratch.remove)
        # No temporary file can be written: the disk is full or read-only.
        if hasattr(picture, "read"):
            picture.seek(0)
    memory = BytesIO()
    _write(picture, memory)
    if not memory.getbuffer().nbytes:
        raise local_error("input_unreadable", "the input is empty: it gave no bytes")
    return _Input({"image_base64": base64.b64encode(memory.getbuffer()).decode("ascii")})


def _scratch_file(picture: Any) -> ScratchFile:
    scratch = ScratchFile()
    try:
        with scratch.path.open("xb") as file:
            _write(picture, file)
    except BaseException:
        scratch.remove()  # the exception keeps a reference to the object
        raise
    return scratch


def _write(picture: Any, file: BinaryIO) -> None:
    """Write a picture of any supported class."""
    kind = _class_of(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        file.write(picture)
    elif kind is bytes:
        shutil.copyfileobj(picture, file)
    elif _name(kind) == "numpy.ndarray":
        from upscaled.tiff import write_array

        write_array(picture, file)
    else:
        from upscaled.pillow import write_image

        write_image(picture, file)


def _class_of(picture: Any) -> type:
    """The default class of the output for a picture in memory. Raises `TypeError`."""
    if isinstance(picture, bytes | bytearray | memoryview) or hasattr(picture, "read"):
        return bytes
    kind = next((one for one in type(picture).__mro__ if _name(one) in _CLASSES), None)
    if kind is None:
        raise TypeError(
            f"{type(picture).__name__} is no picture: give a path, bytes, a binary file, a Pillow "
            "image or a numpy array"
        )
    return kind


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _take_output(output: Any, config: Message, *, by_file: bool) -> _Output:
    if output is None:
        return _Output({}, lambda message: Result.of(message, None))
    if is_path(output) and os.fsdecode(output).startswith(_OUTPUT_SCHEMES):
        return _Output(
            {"output_url": os.fsdecode(output)}, lambda message: Result.of(message, None)
        )
    if is_path(output):
        path = os.path.abspath(os.fsdecode(output))  # noqa: PTH100 - a link is kept as it is
        return _Output({"output_path": path}, lambda message: Result.of(message, None))
    read = _READERS.get(_name(output)) if isinstance(output, type) else None
    if read is None:
        raise TypeError(
            f"{output!r} is no output: give a path, or the class bytes, PIL.Image.Image or "
            "numpy.ndarray"
        )
    format_ = config.get("output_format", "png")
    if _name(output) == "numpy.ndarray":
        if config.setdefault("output_format", "tiff") != "tiff":
            raise TypeError("an array has no format: leave output_format out")
        format_ = "tiff"
    if by_file:
        try:
            scratch = ScratchFile()
        except OSError:
            pass
        else:
            return _Output(
                {"output_path": str(scratch.path), "output_format": format_},
                lambda message: _from_file(message, scratch, read),
            )
    return _Output(
        {"output_base64": True, "output_format": format_},
        lambda message: _from_line(message, read),
    )


def _from_file(message: Message, scratch: ScratchFile, read: Callable[[bytes], T]) -> Result[T]:
    image = read(scratch.path.read_bytes())
    scratch.remove()
    return _in_memory(message, image)


def _from_line(message: Message, read: Callable[[bytes], T]) -> Result[T]:
    return _in_memory(message, read(base64.b64decode(message.get("output_base64") or "")))


def _in_memory(message: Message, image: T) -> Result[T]:
    result = Result.of(message, image)
    result.output_path = result.output_base64 = None
    return result


def _read_array(data: bytes) -> Any:
    from upscaled.tiff import read_array

    return read_array(data)


def _read_image(data: bytes) -> Any:
    from upscaled.pillow import read_image

    return read_image(data)


_READERS: dict[str, Callable[[bytes], Any]] = {
    "builtins.bytes": bytes,
    "numpy.ndarray": _read_array,
    "PIL.Image.Image": _read_image,
}
