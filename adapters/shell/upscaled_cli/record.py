"""The record in the output folder of which output belongs to which picture.

It is a file of JSON lines: one line per assigned name, and one per completed picture. The last line
of a picture counts. Paths are relative to the output folder, so that both folders may move.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from upscaled_cli.pictures import PICTURE_SUFFIXES
from upscaled_cli.stamp import Stamp
from upscaled_imaging.freename import fitting, numbered

NAME = ".upscaled-batch.jsonl"
# Linux's limit of a name.
_NAME_BYTES = 255


class Picture(NamedTuple):
    """An input and its output.

    made_with, made_of: the options and the input from which an earlier batch made the output; None
    if that is not known.
    """

    name: str
    source: Path
    target: Path
    made_with: str | None = None
    made_of: Stamp | None = None

    @property
    def done_at(self) -> float | None:
        """When the output was made, as of `time.time()`; None if there is none, if it is older than
        the input, or was made of another input."""
        try:
            made_at = self.target.stat().st_mtime
            is_older = made_at < self.source.stat().st_mtime
            is_done = not is_older and (self.made_of is None or self.made_of.is_of(self.source))
        except OSError:
            return None
        return made_at if is_done else None


class Record:
    """Names the outputs of `folder` in `output`. The names are the same in each run.

    Raises `OSError` if the output folder cannot be written.
    """

    def __init__(self, folder: Path, output: Path) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._output = output
        self._way_back = os.path.relpath(os.path.realpath(folder), os.path.realpath(output))
        self._file = (output / NAME).open("a+b", buffering=0)

    def pictures(self, names: list[Path], suffix: str) -> list[Picture]:
        """One picture per name, each with an output of its own. If another picture or a file that
        is no output of a batch has the name, the output gets a number.
        """
        # Another batch may assign names in this folder at the same time. Some network drives have
        # no locks: there, two batches at a time are not safe.
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_EX)
        entries = self._entries()
        taken = {_folded(entry["output"]) for entry in entries.values()}
        pictures, lines = [], []
        for name in names:
            entry = entries.get((self._key(name), suffix))
            if entry is None:
                entry = self._entry(name, self._free(name, suffix, taken), suffix)
                taken.add(_folded(entry["output"]))
                lines.append(entry)
            target = self._output / entry["output"]
            made = entry.get("options"), Stamp.from_entry(entry)
            pictures.append(Picture(str(name), self._folder / name, target, *made))
        self._write(lines)
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_UN)
        return pictures

    def note_done(self, picture: Picture, suffix: str, options: str) -> None:
        """Record from what the output was made: `made_of` as it was before, and these options.
        Raises `OSError`."""
        target = picture.target.relative_to(self._output)
        made: dict[str, Any] = {"options": options}
        if picture.made_of is not None:
            with suppress(OSError):  # the input is gone, or cannot be read
                made |= picture.made_of.with_digest(picture.source).as_entry()
        self._write([self._entry(Path(picture.name), target, suffix) | made])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _entries(self) -> dict[tuple[str, str], dict[str, str]]:
        self._file.seek(0)
        text = self._file.read()
        if text and not text.endswith(b"\n"):  # its writer was killed
            self._file.write(b"\n")
        entries: dict[tuple[str, str], dict[str, str]] = {}
        for line in text.splitlines():
            try:
                entry = {field: str(value) for field, value in json.loads(line).items()}
                key, target = (entry["input"], entry["format"]), Path(entry["output"])
            except (ValueError, KeyError, AttributeError, RecursionError):  # half a line
                continue
            # The file may be from another user: write nothing outside the folder.
            if not target.is_absolute() and ".." not in target.parts:
                entries[key] = entry
        return entries

    def _write(self, entries: list[dict[str, str]]) -> None:
        rest = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
        while rest:  # a full disk takes a part, and fails at the next write
            rest = rest[self._file.write(rest) :]

    def _key(self, name: Path) -> str:
        return str(Path(self._way_back, name))

    def _entry(self, name: Path, target: Path, suffix: str) -> dict[str, str]:
        return {"input": self._key(name), "format": suffix, "output": str(target)}

    def _free(self, name: Path, suffix: str, taken: set[str]) -> Path:
        # In a name like `holiday.2024` the end is no format.
        stem = name.stem if name.suffix.lower() in PICTURE_SUFFIXES else name.name
        for one in numbered(fitting(stem, f".{suffix}", _NAME_BYTES), _NAME_BYTES):
            target = name.with_name(one)
            if _folded(str(target)) not in taken and not os.path.lexists(self._output / target):
                return target
        raise AssertionError("there is always a next number")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def options_of(method: str, config: Mapping[str, Any]) -> str:
    """A short hash of these options, the same in each run."""
    text = json.dumps({"method": method, **config}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _folded(name: str) -> str:
    """Equal for two names that are the same on some file systems."""
    return unicodedata.normalize("NFC", name).casefold()
