"""A folder of small files that are kept to save time, and that can be lost at any time."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from upscaled_imaging.pendingfile import PendingFile
from upscaled_protocol.errors import JobError


class KeptFiles:
    """Files by name, at most `limit` of them: the oldest are removed first.

    The folder is made for the first file. If it cannot be written, nothing is kept.
    suffix: of every file's name; files with other suffixes are left alone.
    """

    def __init__(self, folder: Path, suffix: str, limit: int) -> None:
        self._folder = folder
        self._suffix = suffix
        self._limit = limit

    def path(self, name: str) -> Path:
        """Where the file of that name is, if there is one."""
        return self._folder / f"{name}{self._suffix}"

    def keep(self, name: str, data: bytes) -> bool:
        """Write a file, which appears whole or not at all; False if that is not possible."""
        try:
            self._folder.mkdir(exist_ok=True)
            pending = PendingFile(self.path(name))
        except (OSError, JobError):
            return False
        try:
            pending.file.write(data)
            pending.file.flush()
            pending.publish()
        except (OSError, JobError):
            return False
        finally:
            pending.close()
        self._remove_oldest()
        return True

    def _remove_oldest(self) -> None:
        def age(path: Path) -> float:
            try:
                return path.stat().st_mtime
            except OSError:  # another worker was faster
                return 0.0

        with suppress(OSError):  # the folder is gone
            files = sorted(self._folder.glob(f"*{self._suffix}"), key=age)
            for path in files[: -self._limit]:
                with suppress(OSError):  # another worker was faster, or it is not ours
                    path.unlink()
