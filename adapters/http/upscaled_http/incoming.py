"""Files that are being received.

A file is in the incoming folder under a random name until its job is accepted. If the request ends
before that, the file is removed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import unicodedata
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import unquote

from upscaled_http.bodymemory import SMALL_BYTES
from upscaled_http.problems import HttpCode, ProblemError

_MAX_NAME = 200
# What stands for characters that are not shown, one for each row of them.
_LEFT_OUT = re.compile("\0+")
_SHOWN_ASCII = frozenset(" _.()+,=@-")
# They join the letters of some scripts, and the parts of an emoji.
_JOINERS = "\u200c\u200d"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class Upload(NamedTuple):
    """A received file. name: the client's file name, cleaned, only for display. sha256: only if the
    request has an `Idempotency-Key`."""

    path: Path
    name: str | None
    size_bytes: int
    sha256: bytes | None


class IncomingFile:
    """A file that is being received."""

    def __init__(self, folder: Path, name: object, *, needs_hash: bool) -> None:
        self._path = folder / secrets.token_hex(16)
        self._name = clean_name(name)
        self._size = 0
        self._hash = hashlib.sha256() if needs_hash else None
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise storage_problem(error) from None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append."""
        self._size += len(data)
        if self._hash is not None:
            self._hash.update(data)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise storage_problem(error) from None

    def read(self) -> bytes:
        """All that was written. Raises `ProblemError`."""
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise storage_problem(error) from None

    def close(self) -> Upload:
        """Close the complete file."""
        os.close(self._fd)
        digest = None if self._hash is None else self._hash.digest()
        return Upload(self._path, self._name, self._size, digest)

    def discard(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            os.close(self._fd)
        with contextlib.suppress(OSError):
            self._path.unlink()


class IncomingText:
    """A body that is being received and then read whole. A large one is in a file meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._text = bytearray()
        self._file: IncomingFile | None = None
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.discard()

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the body."""
        self.size_bytes += len(chunk)
        if self._file is None and self.size_bytes > SMALL_BYTES:
            self._file = IncomingFile(self._folder, None, needs_hash=False)
            self._file.write(self._text)
        if self._file is None:
            self._text += chunk
        else:
            self._file.write(chunk)

    def take(self) -> bytes | bytearray:
        """The whole body."""
        return self._text if self._file is None else self._file.read()


def clean_name(name: object) -> str | None:
    """A client's file name for display and downloads, without folders and without characters that
    have a meaning in a header or a shell."""
    if not isinstance(name, str):
        return None
    # Some systems write an accent behind its letter.
    last = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    shown = "".join(one if _is_shown(one) else "\0" for one in last)
    cleaned = _LEFT_OUT.sub("_", shown).strip(" .")[:_MAX_NAME]
    return cleaned or None


def name_in(url: str) -> str | None:
    """The file name at the end of an address, cleaned. The address may be wrong."""
    path = re.split("[?#]", url, maxsplit=1)[0].partition("://")[2].partition("/")[2]
    return clean_name(unquote(path))


def _is_shown(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character in _SHOWN_ASCII
    return character.isprintable() or character in _JOINERS


def storage_problem(error: OSError) -> ProblemError:
    """The problem of a file that cannot be written."""
    why = "is full" if error.errno in _NO_SPACE else f"cannot be written ({error.strerror})"
    return ProblemError(HttpCode.INSUFFICIENT_STORAGE, f"The server's disk {why}; try again later.")
