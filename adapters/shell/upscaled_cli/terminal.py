"""Lines for a person."""

from __future__ import annotations

from typing import TextIO


def printable(text: str) -> str:
    """The text with `?` in place of control characters, which could move the cursor or colour the
    screen."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def line_for(stream: TextIO, line: str) -> str:
    """The line as the stream should get it: a file gets all characters of a name."""
    return printable(line) if stream.isatty() else line


def reason_of(error: OSError) -> str:
    """What the system said, without its number: `out/a.png: Permission denied`."""
    is_taken = isinstance(error, FileExistsError)
    text = "there is a file of this name" if is_taken else error.strerror or str(error)
    return text if error.filename is None else f"{error.filename}: {text}"
