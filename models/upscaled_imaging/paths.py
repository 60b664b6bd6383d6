"""Which files a job may touch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from upscaled_protocol.errors import ErrorCode, JobError

# Linux's PATH_MAX. A longer path is refused, and not repeated in the error.
_LONGEST_PATH_BYTES = 4096


def given_path(text: str) -> Path:
    """A host's path, made absolute. `~` is an ordinary character.

    Raises `JobError` (invalid_job) for a path that no file system takes.
    """
    if "\0" in text:
        raise JobError(ErrorCode.INVALID_JOB, "a path holds a zero character")
    length = len(os.fsencode(text))
    if length > _LONGEST_PATH_BYTES:
        raise JobError(
            ErrorCode.INVALID_JOB,
            f"a path has {length} bytes, and no system takes more than {_LONGEST_PATH_BYTES}",
        )
    return Path(text).absolute()


def is_inside(path: Path, roots: Sequence[Path]) -> bool:
    """True if a path lies in one of the folders after its symbolic links were followed."""
    real = Path(os.path.realpath(path))
    # Links in a circle are left as they are. They lead nowhere. `Path.is_symlink` would raise for
    # a folder that may not be searched.
    is_circle = any(os.path.islink(part) for part in (real, *real.parents))  # noqa: PTH114
    return not is_circle and _is_inside(real, roots)


def check_allowed(path: Path, roots: Sequence[Path]) -> None:
    """Refuse a path outside the operator's roots, also if a symbolic link leads out of them.

    Raises `JobError` (path_not_allowed). Without roots every path is allowed.
    """
    if roots and not is_inside(path, roots):
        raise _not_allowed(path, roots)


def check_opened(descriptor: int, path: Path, roots: Sequence[Path]) -> None:
    """The same for the open file or folder itself.

    After `check_allowed`, another process can replace the file, or a folder above it, by a link.
    Without /proc the path is checked again.
    """
    if not roots:
        return
    try:
        real = Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        check_allowed(path, roots)
    else:
        if not _is_inside(real, roots):
            raise _not_allowed(path, roots)


def _is_inside(real: Path, roots: Sequence[Path]) -> bool:
    return any(real.is_relative_to(root.resolve()) for root in roots)


def _not_allowed(path: Path, roots: Sequence[Path]) -> JobError:
    names = ", ".join(str(root) for root in roots)
    return JobError(
        ErrorCode.PATH_NOT_ALLOWED,
        f"{path} is outside the folders that this daemon may use ({names})",
    )
