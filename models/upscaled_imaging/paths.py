"""Which files a job may touch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from upscaled_protocol.errors import ErrorCode, JobError

# Linux' PATH_MAX; an error must not repeat megabytes.
_LONGEST_PATH_BYTES = 4096


def given_path(text: str) -> Path:
    """A path as a host wrote it, made absolute; `~` is an ordinary character.

    Raises `JobError` (invalid_job) for what no file system takes.
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


def check_allowed(path: Path, roots: Sequence[Path]) -> None:
    """Refuse a path outside the operator's roots, wherever its symbolic links lead.

    Raises `JobError` (path_not_allowed). Without roots every path is allowed.
    """
    if not roots:
        return
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # links in a circle lead nowhere
        raise _not_allowed(path, roots) from None
    _check_real(real, path, roots)


def check_opened(descriptor: int, path: Path, roots: Sequence[Path]) -> None:
    """The same for what `path` led to when it was opened: a folder on the way, or the file, may
    have become a link since it was checked. Without /proc it is only checked anew.
    """
    if not roots:
        return
    try:
        real = Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        check_allowed(path, roots)
    else:
        _check_real(real, path, roots)


def _check_real(real: Path, path: Path, roots: Sequence[Path]) -> None:
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise _not_allowed(path, roots)


def _not_allowed(path: Path, roots: Sequence[Path]) -> JobError:
    names = ", ".join(str(root) for root in roots)
    return JobError(
        ErrorCode.PATH_NOT_ALLOWED,
        f"{path} is outside the folders that this daemon may use ({names})",
    )
