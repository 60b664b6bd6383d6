"""NAME.part: the bytes of a file that is being fetched, locked against other runs.

Without a checksum, the bytes of an earlier run may be of another version. So the version's ETag is
kept with them, as an attribute of the file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from upscaled_protocol.attributes import get_attribute, set_attribute

CHUNK_BYTES = 256 * 1024

# An attribute of the file: the source of its bytes and their ETag, as JSON.
_ORIGIN = "user.upscaled.fetched_from"


class LockedError(Exception):
    """Raised when another run has the file."""


def part_of(target: Path) -> Path:
    """The path of the bytes so far of a file that is fetched."""
    return target.with_name(target.name + ".part")


class PartFile:
    """An open NAME.part: its bytes, their checksum so far, their source and their ETag."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.size = 0
        self.resumed = False  # True: its bytes are from several answers
        self.source_and_etag: tuple[str, str] | None = None
        self._file = file
        self._sha256 = hashlib.sha256()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, *, is_checked: bool) -> Iterator[PartFile]:
        """Lock it against other runs. is_checked: its bytes will be compared with a checksum. If
        not, bytes of an earlier run are kept only if their ETag is known. Raises `LockedError`."""
        with _locked(path) as file:
            part = cls(path, file)
            origin = part._kept_origin()
            if is_checked or origin is not None:
                part._read_back()
                part.source_and_etag = origin
            else:
                part.restart()
            try:
                yield part
            finally:
                if part.size == 0:
                    path.unlink(missing_ok=True)

    def append(self, chunk: bytes) -> None:
        """Append fetched bytes."""
        self._file.write(chunk)
        self._sha256.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Remove all bytes."""
        self._file.seek(0)
        self._file.truncate()
        self._sha256 = hashlib.sha256()
        self.size = 0
        self.resumed = False
        self.set_origin(None)

    def set_origin(self, source_and_etag: tuple[str, str] | None) -> None:
        """Keep the source of the bytes; also for the next run, if the file system can."""
        self.source_and_etag = source_and_etag
        value = json.dumps(source_and_etag).encode() if source_and_etag else None
        set_attribute(self._file.fileno(), _ORIGIN, value)

    def digest(self) -> str:
        """The SHA-256 of all bytes so far."""
        return self._sha256.hexdigest()

    def become(self, target: Path) -> None:
        """Give the finished file its name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.set_origin(None)
        self.path.replace(target)

    def _read_back(self) -> None:
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_BYTES):
            self._sha256.update(chunk)
            self.size += len(chunk)
        self.resumed = self.size > 0

    def _kept_origin(self) -> tuple[str, str] | None:
        try:
            source, etag = json.loads(get_attribute(self._file.fileno(), _ORIGIN) or b"")
        except ValueError:
            return None
        return str(source), str(etag)


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    while True:
        with path.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError(f"another run is fetching {path}: wait for it") from None
            # Between open and flock another run may have completed and renamed this file.
            if not _is_still(path, file):
                continue
            yield file
            return


def _is_still(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
