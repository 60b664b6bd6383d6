"""Rows on their way from one operation to the next."""

from __future__ import annotations

import torch
from torch import Tensor


class RowBuffer:
    """A window on rows that arrive from the top down: (B, C, h, W) tensors.

    Holds rows `start` to `end` of what arrived.
    """

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._pieces: list[Tensor] = []

    def push(self, rows: Tensor) -> None:
        """Append the next rows, possibly none."""
        if rows.shape[2]:
            self._pieces.append(rows)
            self.end += rows.shape[2]

    def take(self, first: int, last: int) -> Tensor:
        """Rows `first` to `last`; copied only where they lie in several pieces."""
        if not self.start <= first < last <= self.end:
            raise ValueError(f"rows {first} to {last} are not within {self.start} to {self.end}")
        parts = []
        top = self.start
        for piece in self._pieces:
            height = piece.shape[2]
            low, high = max(first - top, 0), min(last - top, height)
            if low < high:
                # Not piece[:, :, low:high]: indexing costs more than a small operation.
                parts.append(piece if high - low == height else piece.narrow(2, low, high - low))
            top += height
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def drop_before(self, row: int) -> None:
        """Forget the rows above `row`. A remainder is copied, to let go of its whole piece."""
        while self._pieces and self.start + self._pieces[0].shape[2] <= row:
            self.start += self._pieces.pop(0).shape[2]
        if self._pieces and self.start < row:
            piece, passed = self._pieces[0], row - self.start
            self._pieces[0] = piece.narrow(2, passed, piece.shape[2] - passed).clone()
            self.start = row
