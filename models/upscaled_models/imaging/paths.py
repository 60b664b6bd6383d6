"""Which files a job may touch."""

from __future__ import annotations

from pathlib import Path

from upscaled_models.engine import Settings
from upscaled_protocol.errors import ErrorCode, JobError


def given_path(text: str) -> Path:
    """A path as a host wrote it, made absolute; `~` is an ordinary character.

    Raises `JobError` (invalid_job) for what no file system takes.
    """
    if "\0" in text:
        raise JobError(ErrorCode.INVALID_JOB, "a path holds a zero character")
    return Path(text).absolute()


def check_allowed(path: Path, settings: Settings) -> None:
    """Refuse a path outside the operator's roots, wherever its symbolic links lead.

    Raises `JobError` (path_not_allowed). Without roots every path is allowed.
    """
    roots = settings.allowed_roots
    if not roots:
        return
    try:
        real = path.resolve()
        allowed = any(real.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError):  # links in a circle lead nowhere
        allowed = False
    if not allowed:
        raise JobError(
            ErrorCode.PATH_NOT_ALLOWED,
            f"{path} is outside the folders that this daemon may use "
            f"({', '.join(str(root) for root in roots)})",
        )
