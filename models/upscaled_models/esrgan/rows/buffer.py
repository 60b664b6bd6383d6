"""The rows that wait between one operation and the next: a line buffer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class RowBuffer:
    """A window on rows that arrive from the top down, in tensors (B, C, h, W).

    Holds rows `start` to `end`.

    margin: rows of zeros above the first row, and below the last of `height` rows. They have
    numbers too: those above begin at `-margin`.
    """

    def __init__(self, margin: int = 0, height: int = 0) -> None:
        self.margin = margin
        self.start = -margin
        self.end = 0
        self._height = height
        self._pieces: list[Tensor] = []
        # The part of the last piece that is reserved, and not pushed yet.
        self._reserved: Tensor | None = None

    def push(self, rows: Tensor) -> None:
        """Append the next rows, possibly none."""
        count = rows.shape[2]
        if not count:
            return
        in_place, self._reserved = rows is self._reserved, None
        if not in_place:
            if self.margin and not self._pieces and self.end == 0:
                self._pieces.append(_zeros(rows, self.margin))
            self._pieces.append(rows)
        self.end += count
        if self.margin and self.end == self._height:
            if not in_place:
                self._pieces.append(_zeros(rows, self.margin))
            self.end += self.margin

    def reserve(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Memory to write the next rows to before they are pushed, so that `take` need not copy.

        shape: of these rows. like: a tensor of their type, on their device.
        """
        batch, channels, count, width = shape
        held = self.end - self.start
        below = self.margin if self.end + count == self._height else 0
        whole = like.new_empty((batch, held + count + below, width, channels)).permute(0, 3, 1, 2)
        top = 0
        for piece in self._pieces:
            whole.narrow(2, top, piece.shape[2]).copy_(piece)
            top += piece.shape[2]
        if not self._pieces:
            whole.narrow(2, 0, held).zero_()
        if below:
            whole.narrow(2, held + count, below).zero_()
        self._pieces = [whole]
        self._reserved = whole.narrow(2, held, count)
        return self._reserved

    def take(self, first: int, last: int) -> Tensor:
        """Rows `first` to `last`. They are copied only if they lie in several pieces."""
        if not self.start <= first < last <= self.end:
            raise ValueError(f"rows {first} to {last} are not within {self.start} to {self.end}")
        parts = []
        top = self.start
        for piece in self._pieces:
            height = piece.shape[2]
            low, high = max(first - top, 0), min(last - top, height)
            if low < high:
                # Not piece[:, :, low:high]: indexing takes longer than a small operation.
                parts.append(piece if high - low == height else piece.narrow(2, low, high - low))
            top += height
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def drop_before(self, row: int) -> None:
        """Forget the rows above `row`. The rest of their piece is copied, to free the piece."""
        while self._pieces and self.start + self._pieces[0].shape[2] <= row:
            self.start += self._pieces.pop(0).shape[2]
        if self._pieces and self.start < row:
            piece, passed = self._pieces[0], row - self.start
            self._pieces[0] = piece.narrow(2, passed, piece.shape[2] - passed).clone()
            self.start = row


def _zeros(like: Tensor, count: int) -> Tensor:
    batch, channels, _, width = like.shape
    return like.new_zeros((batch, count, width, channels)).permute(0, 3, 1, 2)
