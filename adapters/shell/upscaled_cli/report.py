"""Reports on many files in few lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from upscaled_cli.terminal import line_for

# The limits of lines of one kind, and of names in a line: so all fits on a screen.
_LINES = 20
_NAMES = 3


class Tally:
    """Names of files by the sentence about them. All are counted, few are named."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, sentence: str, name: str) -> None:
        """Count one more file for the sentence."""
        self._names.setdefault(sentence, []).append(name)

    def __len__(self) -> int:
        return sum(map(len, self._names.values()))

    def lines(self, lead: str, *, everything: bool) -> Iterator[str]:
        """One line per sentence: the lead, the number of files, the sentence, and some names."""
        shown = list(self._names.items())
        for sentence, names in shown if everything else shown[:_LINES]:
            named = names if everything else names[:_NAMES]
            rest = len(names) - len(named)
            more = f" and {rest} more" if rest else ""
            yield f"{lead}{len(names)}: {sentence}: {', '.join(named)}{more}"
        if not everything and len(shown) > _LINES:
            yield f"{lead}... and {len(shown) - _LINES} other reasons: -v names all"


def show_failures(failures: dict[str, str], *, everything: bool) -> None:
    """Print one line per failure, at most as many as fit on a screen."""
    shown = list(failures.items()) if everything else list(failures.items())[:_LINES]
    for name, sentence in shown:
        print(line_for(sys.stderr, f"{name}: {sentence}"), file=sys.stderr)
    if len(failures) > len(shown):
        rest = len(failures) - len(shown)
        print(f"... and {rest} more failures: -v names all", file=sys.stderr)
