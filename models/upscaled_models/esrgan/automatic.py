"""`model: "auto"`: which of the bundled models a picture gets, by a look at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from upscaled_imaging.damage import Finding

AUTO = "auto"


class Pair(NamedTuple):
    """Models of one scale, by their names in the catalogue: for clean and for damaged pictures."""

    scale: int
    clean: str
    damaged: str


# In rising order of scale. The last pair serves all larger factors.
PAIRS = (
    Pair(2, "compact-x2", "compact-x2-clean"),
    Pair(4, "compact-x4", "compact-x4-clean"),
)

CLEAN = frozenset(pair.clean for pair in PAIRS)


class Choice(NamedTuple):
    """The chosen model's name, and why it was chosen."""

    model: str
    reason: str


def choose(finding: Finding, factor: float, is_installed: Callable[[str], bool]) -> Choice:
    """The model for a picture that is enlarged `factor` times.

    It is of the smallest scale that reaches the factor. If that scale has no model for damaged
    pictures, a larger scale's model is taken, and its result is reduced to the factor. If there is
    none either, a damaged picture gets the model for clean pictures.
    """
    fitting = [pair for pair in PAIRS if pair.scale >= factor] or [PAIRS[-1]]
    clean, damaged = fitting[0].clean, fitting[0].damaged
    if not finding.is_damaged:
        return Choice(clean, finding.text)
    for pair in fitting:
        if is_installed(pair.damaged):
            missing = "" if pair.damaged == damaged else f"; there is no {damaged}"
            return Choice(pair.damaged, finding.text + missing)
    missing = " and ".join(pair.damaged for pair in fitting)
    return Choice(clean, f"{finding.text}, but there is no {missing}")
