"""By what a batch notices that an input has changed, also if the new file is older."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

_DIGEST_BYTES = 16


class Stamp(NamedTuple):
    """An input's size in bytes, its time in nanoseconds, and the digest of its content.

    The digest is empty if the input has changed while it was upscaled: no content has that.
    """

    size: int
    modified: int
    digest: str = ""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Without the digest, so that nothing is read. Raises `OSError`."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)

    @classmethod
    def from_entry(cls, entry: Mapping[str, str]) -> Self | None:
        """The stamp in an entry of the record; None if it has none, or a broken one."""
        try:
            return cls(int(entry["size"]), int(entry["modified"]), entry["digest"])
        except (KeyError, ValueError):
            return None

    def as_entry(self) -> dict[str, Any]:
        """The fields for the record."""
        return self._asdict()

    def with_digest(self, path: Path) -> Self:
        """The stamp with its digest, if the file has not changed since. Raises `OSError`."""
        digest = _digest(path)
        return self._replace(digest=digest) if type(self).of(path) == self else self

    def is_of(self, path: Path) -> bool:
        """True if the file has this content. It is read only if its time is another one. Raises
        `OSError`."""
        now = type(self).of(path)
        if now.size != self.size:
            return False
        return now.modified == self.modified or _digest(path) == self.digest


def _digest(path: Path) -> str:
    # If a pipe has replaced the file, the read would block without O_NONBLOCK.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)
        ).hexdigest()
