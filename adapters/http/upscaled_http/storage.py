"""The data folder: its files, its lock, and the room that is left.

    DATA/  serve.lock  sidecar.db  journal.db  uploads/ID  uploads/incoming/  results/ID.EXT

Files are named by their job's id alone. The incoming folder is in the uploads' folder, so that a
rename moves a file even if `upload_dir` is another volume.
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
# The free space is measured again after this time.
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
        # Of the files of jobs, previews included. `sweep` counts what an earlier server left.
        self.uploads_bytes = 0
        self.results_bytes = 0

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
        """Release the lock."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def upload(self, job_id: str) -> Path:
        """A job's input."""
        return self.uploads / job_id

    def result(self, file_name: str) -> Path:
        """A job's output."""
        return self.results / file_name

    def take_upload(self, received: Path, job_id: str, size_bytes: int) -> None:
        """Make a received file a job's input. Raises `OSError`."""
        os.rename(received, self.upload(job_id))  # noqa: PTH104 - quick: once per job
        self.uploads_bytes += size_bytes

    def remove_upload(self, job_id: str) -> None:
        """Remove a job's input, if it has one: the job has ended, or was not accepted."""
        self.uploads_bytes -= _removed_bytes(self.upload(job_id))

    def note_result(self, path: Path) -> int:
        """Count a new result, or a preview of one; its bytes. Raises `OSError`."""
        size = os.stat(path).st_size  # noqa: PTH116 - quick: once per job
        self.results_bytes += size
        return size

    def remove_result(self, file_name: str) -> int:
        """Remove a result and its previews; the bytes that this frees."""
        stem = file_name.partition(".")[0]
        paths = [self.result(file_name), *self.results.glob(f"{stem}.preview-*.webp")]
        freed = sum(map(_removed_bytes, paths))
        self.results_bytes -= freed
        return freed

    def sweep(self, open_ids: set[str], file_names: set[str]) -> None:
        """Remove the files of no job, which a killed server leaves, and count those of jobs. An
        open job's result is counted when the job ends."""
        for path in self._files(self.incoming):
            _removed_bytes(path)
        for folder in self.incoming.glob("*/"):  # of the pipeline
            shutil.rmtree(folder, ignore_errors=True)
        for path in self._files(self.uploads):
            if path.name in open_ids:
                with suppress(OSError):
                    self.uploads_bytes += path.stat().st_size
            elif _OURS.fullmatch(path.name):
                _removed_bytes(path)
        stems = {name.partition(".")[0] for name in file_names}
        for path in self._files(self.results):
            stem = path.name.partition(".")[0]
            if stem in stems:
                with suppress(OSError):
                    self.note_result(path)
            elif _OURS.fullmatch(path.name) and stem not in open_ids:
                _removed_bytes(path)

    @property
    def is_full(self) -> bool:
        """True if less than `min_free_mb` is free for uploads or for results."""
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


def _removed_bytes(path: Path) -> int:
    """Remove a file; how many bytes it had. 0 if it cannot be removed."""
    try:
        size = os.stat(path).st_size  # noqa: PTH116
        os.unlink(path)  # noqa: PTH108
    except OSError:
        return 0
    return size


def _free_bytes(folder: Path) -> float:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return float("inf")
