"""Names that no file has yet, taken in one step that no other process can interrupt."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

# From linux/fs.h: do not replace a file.
_RENAME_NOREPLACE = 1
# The errors of a kernel or a file system without the call.
_NOT_HERE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK}


def numbered(name: str, limit_bytes: int) -> Iterator[str]:
    """The name itself, then `photo-2.png`, `photo-3.png` and so on, without end."""
    yield name
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a name is no path, and this is faster
    for number in count(2):
        yield fitting(stem, f"-{number}{suffix}", limit_bytes)


def fitting(stem: str, ending: str, limit_bytes: int) -> str:
    """`stem` and `ending` as one name; the stem is cut if the name would be too long."""
    room = limit_bytes - len(os.fsencode(ending))
    while len(stem) > 1 and len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return stem + ending


def rename_to_free(folder: int, old: str, new: str) -> None:
    """Rename a file within `folder`, a descriptor; in one step if the file system allows that.

    Raises `FileExistsError` if anything has the name `new`.
    """
    steps: tuple[Callable[[int, str, str], None], ...] = (_rename, _link, _reserve)
    for step in steps:
        try:
            step(folder, old, new)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _NOT_HERE or step is _reserve:
                raise
        else:
            return


def _rename(folder: int, old: str, new: str) -> None:
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # an older C library
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    names = os.fsencode(old), os.fsencode(new)
    if rename(folder, names[0], folder, names[1], _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)


def _link(folder: int, old: str, new: str) -> None:
    # NFS has no renameat2.
    os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder)
    os.unlink(old, dir_fd=folder)


def _reserve(folder: int, old: str, new: str) -> None:
    # FAT over FUSE has no links either. Here alone the name is an empty file's for a moment.
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(new, flags, 0o666, dir_fd=folder))
    try:
        os.replace(old, new, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(new, dir_fd=folder)
        raise
