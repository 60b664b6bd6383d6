"""One line of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """A fact about the installation. fix: what to do if something is missing or wrong.

    A `problem` makes the exit status 1: something needed is missing or wrong. A `note` does not.
    """

    name: str
    state: Literal["ok", "note", "problem"]
    text: str
    fix: str | None = None
