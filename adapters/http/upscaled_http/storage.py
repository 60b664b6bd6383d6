"""The data folder: what lies where, who may use it, and how much room is left.

    DATA/  serve.lock  sidecar.db  journal.db  uploads/ID  uploads/incoming/  results/ID.EXT

Files are named by their job's id alone. The incoming folder lies in the uploads' own, so that a
rename moves a file also if `upload_dir` is another volume.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from upscaled_http.config import StorageSettings

_OURS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.[\w-]{1,20})?(\.[a-z]{2,4})?")
# How old the measured free space may be.
_MEASURED_S = 1.0


class StorageError(Exception):
    """The data folder cannot be used. The sentence says why."""


class Storage:
    """The folders, once `open` was called."""

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self.data = settings.data_dir.absolute()
        self.uploads = settings.uploads.absolute()
        self.results = settings.results.absolute()
        self.incoming = self.uploads / "incoming"
        self.registry = self.data / "sidecar.db"
        self.journal = self.data / "journal.db"
        self._lock_fd: int | None = None
        self._measured_at = 0.0
        self._is_full = False

    def open(self) -> None:
        """Make the folders and take the lock. Raises `StorageError`."""
        try:
            for folder in (self.data, self.uploads, self.results, self.incoming):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(
                self.data / "serve.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise StorageError(
                f"storage.data_dir: {error.filename} cannot be used: {error.strerror}"
            ) from None
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise StorageError(
                f"storage.data_dir: another server uses {self.data}; give each its own folder"
            ) from None

    def close(self) -> None:
        """Let another server have the folder."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def upload(self, job_id: str) -> Path:
        """A job's input."""
        return self.uploads / job_id

    def result(self, file_name: str) -> Path:
        """A job's output."""
        return self.results / file_name

    def remove_upload(self, job_id: str) -> None:
        """The job has ended, or was not accepted."""
        with suppress(OSError):
            os.unlink(f"{self.uploads}/{job_id}")  # noqa: PTH108 - for each job, so it is to be quick

    def remove_result(self, file_name: str) -> int:
        """Remove a result and what was made of it; the bytes that this has freed."""
        freed = 0
        stem = file_name.partition(".")[0]
        paths = [self.result(file_name), *self.results.glob(f"{stem}.preview-*.webp")]
        for path in paths:
            with suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                freed += size
        return freed

    def sweep(self, open_ids: set[str], file_names: set[str]) -> None:
        """Remove what a server that was killed has left: files of no job."""
        for path in self._files(self.incoming):
            with suppress(OSError):
                path.unlink()
        for path in self._files(self.uploads):
            if _OURS.fullmatch(path.name) and path.name not in open_ids:
                with suppress(OSError):
                    path.unlink()
        stems = {name.partition(".")[0] for name in file_names} | open_ids
        for path in self._files(self.results):
            if _OURS.fullmatch(path.name) and path.name.partition(".")[0] not in stems:
                with suppress(OSError):
                    path.unlink()

    def used_bytes(self, folder: Path) -> int:
        """The bytes of a folder's files."""
        total = 0
        for path in self._files(folder):
            with suppress(OSError):
                total += path.stat().st_size
        return total

    @property
    def is_full(self) -> bool:
        """Whether less than `min_free_mb` is free where uploads or results go."""
        now = time.monotonic()
        if now - self._measured_at > _MEASURED_S:
            self._measured_at = now
            least = self._settings.min_free_mb * 1024 * 1024
            self._is_full = any(
                _free_bytes(folder) < least for folder in (self.uploads, self.results)
            )
        return self._is_full

    def _files(self, folder: Path) -> Iterator[Path]:
        with suppress(OSError):
            yield from (path for path in folder.iterdir() if path.is_file())


def _free_bytes(folder: Path) -> float:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return float("inf")
