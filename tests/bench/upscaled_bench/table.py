"""Plain tables for terminals, logs and Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table with aligned columns under its title."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    table = GrowingTable(title, header, widths)
    for row in rows:
        table.add(row)


class GrowingTable:
    """A Markdown table, each row of which is printed when it is measured.

    widths: of the columns; a longer cell shifts the rest of its row.
    """

    def __init__(self, title: str, header: Sequence[str], widths: Sequence[int]) -> None:
        self._widths = widths
        print(f"\n{title}\n")
        self.add(header)
        print("|" + "|".join("-" * (width + 2) for width in widths) + "|", flush=True)

    def add(self, row: Sequence[str]) -> None:
        """Print one row."""
        cells = (cell.ljust(width) for cell, width in zip(row, self._widths, strict=True))
        print("| " + " | ".join(cells) + " |", flush=True)
