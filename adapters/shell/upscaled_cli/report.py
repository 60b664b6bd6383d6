"""Many files told of in few lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator

# Lines of one kind, and names in a line, that fit on a screen beside the rest.
_LINES = 20
_NAMES = 3


class Tally:
    """Names of files by what is to be said of them. Every file counts, few are named."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, sentence: str, name: str) -> None:
        """Note that the sentence is true of one more file."""
        self._names.setdefault(sentence, []).append(name)

    def __len__(self) -> int:
        return sum(map(len, self._names.values()))

    def lines(self, lead: str, *, everything: bool) -> Iterator[str]:
        """A line for each sentence: the lead, how many files, the sentence, and some names."""
        shown = list(self._names.items())
        for sentence, names in shown if everything else shown[:_LINES]:
            named = names if everything else names[:_NAMES]
            rest = len(names) - len(named)
            more = f" and {rest} more" if rest else ""
            yield f"{lead}{len(names)}: {sentence}: {', '.join(named)}{more}"
        if not everything and len(shown) > _LINES:
            yield f"{lead}... and {len(shown) - _LINES} other reasons: -v names all"


def show_failures(failures: dict[str, str], *, everything: bool) -> None:
    """A line for each failure, or for the first of them if they are too many for a screen."""
    shown = list(failures.items()) if everything else list(failures.items())[:_LINES]
    for name, sentence in shown:
        print(f"{name}: {sentence}", file=sys.stderr)
    if len(failures) > len(shown):
        rest = len(failures) - len(shown)
        print(f"... and {rest} more failures: -v names all", file=sys.stderr)
