"""Temporary files for pictures between this process and the daemon."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

_lock = threading.Lock()
_folder: Path | None = None
_folder_pid = 0
_count = 0


class ScratchFile:
    """A name for one file, in a folder that only this user may enter. The file is removed with the
    object. Raises `OSError`."""

    def __init__(self) -> None:
        self.path = _folder_of_process() / str(_next())
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(self, _remove, self.path, self._pid)

    def remove(self) -> None:
        """Remove the file. It is gone on return, even if another thread removes it too."""
        _remove(self.path, self._pid)
        self._finalizer.detach()


def _next() -> int:
    global _count  # noqa: PLW0603 - one folder per process
    with _lock:
        _count += 1
        return _count


def _folder_of_process() -> Path:
    """The process's folder; a forked child gets another one."""
    global _folder, _folder_pid
    with _lock:
        if _folder is None or _folder_pid != os.getpid() or not _folder.is_dir():
            _folder, _folder_pid = Path(tempfile.mkdtemp(prefix="upscaled-")), os.getpid()
            atexit.register(_remove_folder, _folder, _folder_pid)
        return _folder


def _remove(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # in a forked child the file belongs to the parent
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _remove_folder(path: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(path, ignore_errors=True)


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
