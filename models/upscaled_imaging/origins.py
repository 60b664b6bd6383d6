"""The kinds of input that a job can name, each under the config field that it serves."""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from upscaled_imaging.context import PictureContext
from upscaled_imaging.fetch import fetch, too_large
from upscaled_imaging.objectstore import download
from upscaled_imaging.origin import Origin
from upscaled_imaging.paths import check_allowed, check_opened, given_path
from upscaled_imaging.pendingfile import temporary_file
from upscaled_imaging.settings import PictureSettings
from upscaled_imaging.storage import SCHEMES
from upscaled_protocol.configs import ImageConfig
from upscaled_protocol.errors import ErrorCode, JobError

# Opens the field's value; its size in bytes is checked before it is read.
OpenOrigin = Callable[[str, PictureSettings, PictureContext], AbstractContextManager[Origin]]

# Writes what a URL gives to a file. `fetch` refuses schemes that have no entry.
Download = Callable[[str, BinaryIO, PictureSettings, PictureContext], None]

_LONGEST_STEM = 100


def open_origin(
    config: ImageConfig, settings: PictureSettings, context: PictureContext
) -> AbstractContextManager[Origin]:
    """Open the one input that the config names.

    Entering the context raises `JobError`: input_not_found, input_unreadable, input_too_large,
    path_not_allowed.
    """
    for field, open_kind in ORIGINS.items():
        value = getattr(config, field)
        if value is not None:
            return open_kind(value, settings, context)
    raise AssertionError("a config has exactly one input")


@contextmanager
def open_file(text: str, settings: PictureSettings, _context: PictureContext) -> Iterator[Origin]:
    """A file under the operator's roots."""
    path = given_path(text)
    descriptor = _open(path, settings)
    try:
        yield Origin.of_file(descriptor, path, path.stem)
    finally:
        os.close(descriptor)


@contextmanager
def open_base64(text: str, settings: PictureSettings, context: PictureContext) -> Iterator[Origin]:
    """Bytes in the job itself, also as a `data:` URL."""
    data = _decoded(text, settings.limits.max_input_bytes)
    yield Origin.of_bytes(data, _safe_stem(context.job_id))


@contextmanager
def open_url(url: str, settings: PictureSettings, context: PictureContext) -> Iterator[Origin]:
    """A copy of what a web server or an object storage has, in a temporary file."""
    with temporary_file() as file:
        scheme = url.partition(":")[0].lower()
        _DOWNLOADS.get(scheme, fetch)(url, file, settings, context)
        stem = Path(unquote(urlsplit(url).path)).stem
        yield Origin.of_file(file.fileno(), None, _safe_stem(stem or context.job_id))


_DOWNLOADS: Mapping[str, Download] = dict.fromkeys(SCHEMES, download)
ORIGINS: Mapping[str, OpenOrigin] = {
    "image_path": open_file,
    "image_base64": open_base64,
    "image_url": open_url,
}


def _open(path: Path, settings: PictureSettings) -> int:
    check_allowed(path, settings.access.roots)
    try:
        # Without O_NONBLOCK a named pipe would block the job until a process writes to it.
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
