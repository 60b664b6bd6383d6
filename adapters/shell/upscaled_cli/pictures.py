"""Finds the pictures of a folder, by their content. All other files are reported."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from upscaled_cli.report import Tally
from upscaled_imaging.kinds import HEAD_BYTES, kind_of, read_suffixes

# A file with such a suffix is given to the daemon. If it is no picture, the daemon says so.
PICTURE_SUFFIXES = read_suffixes()
# The default name of an output; see `plan_output` in the imaging package.
_OUTPUT_STEM = re.compile(r"(.+)_(?:esrgan|flux|imagen|face)_[0-9.]+x(?:-[0-9]+)?", re.DOTALL)


@dataclass
class Found:
    """The content of a folder. names: the pictures, relative to the folder, in order.

    left_out: other files. failures: pictures and folders that cannot be read, each with a sentence.
    """

    names: list[Path] = field(default_factory=list)
    left_out: Tally = field(default_factory=Tally)
    failures: dict[str, str] = field(default_factory=dict)


def find_pictures(folder: Path, output: Path) -> Found:
    """Search the folder and the folders below, but not `output`.

    Raises `ValueError` if `folder` is no folder, or the same as `output`.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    try:
        known: os.stat_result | None = output.stat()
    except OSError:  # not made yet
        known = None
    if known is not None and os.path.samestat(known, folder.stat()):
        raise ValueError("the output folder must be another one than the input folder")
    found = Found()
    # No recursion: folders may be nested deeper than Python's stack.
    waiting = [Path()]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(folder / here) as entries:
                is_folder = {entry.name: _is_folder(entry) for entry in entries}
        except OSError as error:
            found.failures[str(folder / here)] = f"it cannot be read: {error.strerror}"
            continue
        below = []
        stems = {Path(name).stem for name, deeper in is_folder.items() if not deeper}
        for name in sorted(is_folder):
            path = folder / here / name
            if not is_folder[name]:
                _sort(path, here / name, stems, found)
            elif (reason := _reason_to_skip(path, known)) is not None:
                found.left_out.add(reason, f"{here / name}/")
            else:
                below.append(here / name)
        waiting += reversed(below)
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _reason_to_skip(folder: Path, output: os.stat_result | None) -> str | None:
    if folder.name.startswith("."):
        return "hidden folders"
    if folder.is_symlink():
        return "links to folders, which are not followed"
    try:
        is_output = output is not None and os.path.samestat(output, folder.stat())
    except OSError:  # reported when its files are searched
        return None
    # An output folder below the input must not become input of the next run.
    return "the output folder" if is_output else None


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
    # If a pipe has replaced the file, the read would block without O_NONBLOCK.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, HEAD_BYTES)
    finally:
        os.close(descriptor)
