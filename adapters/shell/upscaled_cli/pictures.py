"""The pictures of a folder, by content; whatever else lies there is named, and nothing is passed
over in silence."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from upscaled_cli.report import Tally
from upscaled_models.imaging.kinds import HEAD_BYTES, kind_of

# A file of such a name is meant to be a picture: if it is none, the daemon says what it is.
PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".avif", ".gif"}
)
# The default name of an output; see `plan_output` in the imaging package.
_OUTPUT_STEM = re.compile(r"(.+)_(?:esrgan|flux|imagen)_[0-9.]+x(?:-[0-9]+)?", re.DOTALL)


@dataclass
class Found:
    """What a folder holds. names: of the pictures, from the folder on, in order.

    left_out: what is no picture of the user's. failures: pictures, and folders, that cannot be
    read, with a sentence each.
    """

    names: list[Path] = field(default_factory=list)
    left_out: Tally = field(default_factory=Tally)
    failures: dict[str, str] = field(default_factory=dict)


def find_pictures(folder: Path, output: Path) -> Found:
    """Look through the folder and those below, but not through `output`.

    Raises `ValueError` if `folder` is no folder, or the same as `output`.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    if output.resolve() == folder.resolve():
        raise ValueError("the output folder must be another one than the input folder")
    found = Found()

    def note(error: OSError) -> None:
        found.failures[str(error.filename)] = f"it cannot be read: {error.strerror}"

    for parent, folders, names in os.walk(folder, onerror=note):
        here = Path(parent).relative_to(folder)
        kept = []
        for name in sorted(folders):
            reason = _reason_to_skip(Path(parent, name), output)
            if reason is None:
                kept.append(name)
            else:
                found.left_out.add(reason, f"{here / name}/")
        folders[:] = kept
        stems = {Path(name).stem for name in names}
        for name in sorted(names):
            _sort(Path(parent, name), here / name, stems, found)
    return found


def _reason_to_skip(folder: Path, output: Path) -> str | None:
    if folder.name.startswith("."):
        return "hidden folders"
    if folder.is_symlink():
        return "links to folders, which are not followed"
    # An output folder below the input must not become input the next time.
    return "the output folder" if folder.resolve() == output.resolve() else None


def _sort(path: Path, name: Path, stems: set[str], found: Found) -> None:
    if path.name.startswith("._"):
        found.left_out.add("AppleDouble, which macOS writes beside a file", str(name))
        return
    if path.name.startswith("."):
        found.left_out.add("hidden files", str(name))
        return
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
        is_meant = path.suffix.lower() in PICTURE_SUFFIXES
        head = b"" if is_meant or not is_file else _head(path)
    except OSError as error:
        is_link = isinstance(error, FileNotFoundError) and path.is_symlink()
        reason = "the file that it links to is missing" if is_link else error.strerror
        found.failures[str(name)] = f"it cannot be read: {reason}"
        return
    output = _OUTPUT_STEM.fullmatch(path.stem)
    if not is_file:
        found.left_out.add("no ordinary files", str(name))
    elif output is not None and output[1] in stems:
        found.left_out.add("outputs of a picture beside them", str(name))
    elif is_meant:
        found.names.append(name)
    else:
        _sort_by_content(head, name, found)


def _sort_by_content(head: bytes, name: Path, found: Found) -> None:
    kind = kind_of(head) if head else None
    if kind is None:
        found.left_out.add("no picture of a known kind" if head else "empty files", str(name))
    elif kind.is_read:
        found.names.append(name)
    elif kind.is_picture:
        found.failures[str(name)] = f"it is {kind.name}, {kind.advice}"
    else:
        found.left_out.add(kind.name, str(name))


def _head(path: Path) -> bytes:
    # Without O_NONBLOCK a pipe that took the file's place would hold us.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, HEAD_BYTES)
    finally:
        os.close(descriptor)
