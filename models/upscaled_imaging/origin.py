"""Where a picture's bytes come from: a file, the job itself, or a URL."""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyvips

from upscaled_imaging.context import PictureContext
from upscaled_imaging.fetch import fetch, too_large
from upscaled_imaging.paths import check_allowed, check_opened, given_path
from upscaled_imaging.pendingfile import temporary_file
from upscaled_imaging.settings import PictureSettings
from upscaled_protocol.configs import ImageConfig
from upscaled_protocol.errors import ErrorCode, JobError

_LONGEST_STEM = 100


@dataclass(frozen=True)
class Origin:
    """Open bytes, ``size`` of them.

    path: the input file, or None. stem: for the output's name. held: what libvips reads from; it
    must live as long as the pictures that are read from it.
    """

    source: pyvips.Source
    read_at: Callable[[int, int], bytes]
    size: int
    path: Path | None
    stem: str
    held: list[pyvips.Source] = field(default_factory=list)

    def changed(self, pieces: dict[int, bytes]) -> pyvips.Source:
        """The same bytes for libvips, but for ``pieces`` by the place where they begin."""
        source = _changed_source(self.read_at, self.size, pieces)
        self.held.append(source)
        return source


@contextmanager
def open_origin(
    config: ImageConfig, settings: PictureSettings, context: PictureContext
) -> Iterator[Origin]:
    """Open the one input that the config names; its size in bytes is checked first.

    Raises `JobError`: input_not_found, input_unreadable, input_too_large, path_not_allowed.
    """
    if config.image_path is not None:
        path = given_path(config.image_path)
        descriptor = _open(path, settings)
        try:
            yield _file_origin(descriptor, path, path.stem)
        finally:
            os.close(descriptor)
    elif config.image_base64 is not None:
        data = _decoded(config.image_base64, settings.limits.max_input_bytes)
        yield Origin(
            pyvips.Source.new_from_memory(data),
            lambda at, count: data[at : at + count],
            len(data),
            None,
            _safe_stem(context.job_id),
        )
    else:
        url = config.image_url or ""
        with temporary_file() as file:
            fetch(url, file, settings, context)
            stem = Path(unquote(urlsplit(url).path)).stem
            yield _file_origin(file.fileno(), None, _safe_stem(stem or context.job_id))


def _open(path: Path, settings: PictureSettings) -> int:
    check_allowed(path, settings.access.roots)
    try:
        # Without O_NONBLOCK a named pipe would hold the job until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise JobError(ErrorCode.INPUT_NOT_FOUND, f"there is no file {path}") from None
    except OSError as error:
        raise JobError(
            ErrorCode.INPUT_UNREADABLE, f"{path} cannot be opened: {error.strerror}"
        ) from None
    try:
        check_opened(descriptor, path, settings.access.roots)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise JobError(ErrorCode.INPUT_NOT_FOUND, f"{path} is no ordinary file")
        if status.st_size > settings.limits.max_input_bytes:
            raise too_large(settings.limits.max_input_bytes)
    except JobError:
        os.close(descriptor)
        raise
    return descriptor


def _file_origin(descriptor: int, path: Path | None, stem: str) -> Origin:
    size = os.fstat(descriptor).st_size

    def read_at(at: int, count: int) -> bytes:
        if at >= size:  # a broken file may point to where no system counts
            return b""
        try:
            return os.pread(descriptor, count, at)
        except OSError as error:
            raise JobError(
                ErrorCode.INPUT_UNREADABLE, f"the input cannot be read: {error.strerror}"
            ) from None

    return Origin(pyvips.Source.new_from_descriptor(descriptor), read_at, size, path, stem)


def _changed_source(
    read_at: Callable[[int, int], bytes], size: int, pieces: dict[int, bytes]
) -> pyvips.SourceCustom:
    size = max(size, *(at + len(piece) for at, piece in pieces.items()))
    position = 0

    def read(count: int) -> bytes:
        nonlocal position
        start, end = position, min(position + count, size)
        if start >= end:
            return b""
        try:
            found = bytearray(read_at(start, end - start).ljust(end - start, b"\0"))
        except JobError:  # must not unwind through C, which takes no bytes for the end
            return b""
        for at, piece in pieces.items():
            first, last = max(at, start), min(at + len(piece), end)
            if first < last:
                found[first - start : last - start] = piece[first - at : last - at]
        position = end
        return bytes(found)

    def seek(offset: int, whence: int) -> int:
        nonlocal position
        position = (0, position, size)[whence] + offset
        return position

    source = pyvips.SourceCustom()
    source.on_read(read)
    source.on_seek(seek)
    return source


def _decoded(text: str, limit_bytes: int) -> bytes:
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise JobError(ErrorCode.INPUT_UNREADABLE, "the data: URL holds no base64")
    if len(text) // 4 * 3 > limit_bytes:
        raise too_large(limit_bytes)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise JobError(
            ErrorCode.INPUT_UNREADABLE,
            "image_base64 is no base64: send the standard alphabet, padded, without line breaks",
        ) from None


def _safe_stem(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("._")[:_LONGEST_STEM] or "image"
