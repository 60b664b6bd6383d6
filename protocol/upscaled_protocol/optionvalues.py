"""Numbers and paths on a command line. Each error says which are allowed.

`argparse` itself would say "invalid count value", with the name of the function.
"""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from pathlib import Path


def whole_number(text: str) -> int:
    """Any whole number. Raises `argparse.ArgumentTypeError`, as all of these do."""
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a whole number") from None


def count(text: str) -> int:
    """A whole number of at least 1."""
    value = whole_number(text)
    if value < 1:
        raise ArgumentTypeError(f"{text!r} is below 1: it must be at least 1")
    return value


def number(text: str) -> float:
    """Any number, but not infinity."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{text!r} is not a number")
    return value


def above_zero(text: str) -> float:
    """A number above 0."""
    value = number(text)
    if value <= 0:
        raise ArgumentTypeError(f"{text!r} is not above 0")
    return value


def at_least_zero(text: str) -> float:
    """A number of at least 0."""
    value = number(text)
    if value < 0:
        raise ArgumentTypeError(f"{text!r} is below 0")
    return value


def given_path(text: str) -> Path:
    """A path. An empty one, as of a variable that is not set, would be the working folder."""
    if not text:
        raise ArgumentTypeError("the path is empty: give one, or . for the working folder")
    return Path(text)
