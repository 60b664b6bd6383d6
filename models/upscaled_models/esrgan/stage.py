"""One pass of a picture through a network, band by band: memory does not grow with its height."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from traceback import clear_frames
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from upscaled_models.device.out_of_memory import is_out_of_memory
from upscaled_models.esrgan.network import Network, Stream
from upscaled_models.esrgan.pixels import to_bytes
from upscaled_models.esrgan.precision import ImpreciseError
from upscaled_models.esrgan.rows.buffer import RowBuffer
from upscaled_models.esrgan.tile import Tile
from upscaled_models.esrgan.workshare import work_by_rows, work_in_tiles
from upscaled_models.tiling import Span, blend_margin, cosine_weights, partition
from upscaled_protocol.errors import ErrorCode, JobError

# The smallest tile that is tried when memory runs out. A smaller one would be mostly overlap.
_LEAST_WIDTH = 32
_LEAST_ROWS = 8
# If memory runs out by rows, the rest of the picture is computed in tiles of this side.
_TILED_SIDE = 128
# If a source varies by more than this and its result has only one value, half precision failed.
_CERTAIN_VARIATION = 16 / 255


class Host(Protocol):
    """What a stage needs of the job that it is part of."""

    def tile_done(self) -> None:
        """Report progress. Raises `JobError` (cancelled) if the job was cancelled."""

    def make_room(self) -> None:
        """Free memory that no job uses: it ran out, and a smaller tile is tried next."""

    def full_precision(self, failed: Network) -> Network:
        """The network in float32, from now on. Raises `JobError` (model_corrupt) if `failed` is."""


class Stage:
    """Takes a picture's rows, and gives the rows of the picture `network.scale` times as large.

    If memory runs out for a tile, or its half-precision result is unusable, it is computed again in
    smaller tiles or in float32. The source rows that this needs are kept.

    as_bytes: give the result in uint8, as files have it.
    """

    def __init__(
        self,
        network: Network,
        width: int,
        height: int,
        tile: Tile,
        host: Host,
        *,
        as_bytes: bool = False,
    ) -> None:
        self._network = network
        self._as_bytes = as_bytes
        self.tile = tile
        self._host = host
        self._width, self._height = width, height
        # The picture is mirrored at its right and lower edges, to the size that the network needs.
        self._full_width = network.padded(width)
        self._full_height = network.padded(height)
        self._rows = RowBuffer()
        # One per column.
        self._streams: Sequence[Stream] = ()
        # Rows of the result that were given away.
        self._given = 0
        self.tiles_done = 0
        self._open()

    @property
    def tiles_left(self) -> int:
        """Tiles still to be computed."""
        done = self._columns_done if self._work.computes(self._steps) else 0
        return self._work.left(self._steps) * len(self._columns) - done

    @property
    def pixels(self) -> int:
        """Source pixels that the network computes; those of overlaps count in each tile."""
        return sum(self._seen(column).length for column in self._columns) * self._work.rows

    @property
    def share_done(self) -> float:
        """Of the stage's work, from 0 to 1."""
        before, after = self._work.share(self._steps), self._work.share(self._steps + 1)
        widths = [self._seen(column).length for column in self._columns]
        own = before + (after - before) * sum(widths[: self._columns_done]) / sum(widths)
        started = self._start / self._full_height
        return started + (1 - started) * own

    def run(self, bands: Iterable[Tensor]) -> Iterator[Tensor]:
        """Upscale bands of rows, (B, C, h, width) in float32, of any heights.

        Yields bands of the same kind, in float32 or the network's precision, not clamped, or in
        uint8.
        Raises `JobError` (out_of_memory), and what the host raises.
        """
        for band in self._completed(bands):
            self._rows.push(band)
            yield from self._compute()

    def _compute(self) -> Iterator[Tensor]:
        """Compute as much as the rows that have come suffice for."""
        ended = self._rows.end == self._full_height
        while self._given < self._height * self._network.scale:
            waiting = self._rows.end - self._fed
            if waiting < self.tile.rows and not ended:
                return
            count = min(waiting, self.tile.rows)
            try:
                ready = self._step(self._rows.take(self._fed, self._fed + count) if count else None)
                if ready is not None:
                    ready = self._checked(ready)
            except Exception as error:
                # Raised here: a call that has the error as a variable and raises it, holds it.
                if not self._recover(error):
                    raise
                continue
            self._fed += count
            self._steps += 1
            self._columns_done = 0
            if ready is not None:
                yield self._give(ready)

    @torch.inference_mode()
    def _step(self, rows: Tensor | None) -> Tensor | None:
        """Feed one band, or None after the last one; the part of the result that is ready."""
        joined = None
        for column, stream in zip(self._columns, self._streams, strict=True):
            if rows is None:
                part = stream.drain()
            else:
                seen = self._seen(column)
                part = stream.feed(rows[:, :, :, seen.start : seen.stop])
            if part is not None:
                joined = self._joined(joined, column, part)
            self.tiles_done += self._work.computes(self._steps)
            self._columns_done += 1
            self._host.tile_done()
        if joined is None:
            return None
        skipped = min(self._skip, joined.shape[2])
        self._skip -= skipped
        return joined[:, :, skipped:] if skipped < joined.shape[2] else None

    def _joined(self, joined: Tensor | None, column: Span, part: Tensor) -> Tensor:
        """The band (B, C, h, W), of the padded width, with a column's result in it."""
        if len(self._columns) == 1:
            return part
        scale, blend = self._network.scale, self._blend
        if joined is None:
            shape = (*part.shape[:3], self._full_width * scale)
            joined = part.new_zeros(shape, dtype=torch.float32 if blend else part.dtype)
        wide, left = column.widened(blend, self._full_width), self._seen(column).start
        kept = part[:, :, :, (wide.start - left) * scale : (wide.stop - left) * scale]
        target = joined[:, :, :, wide.start * scale : wide.stop * scale]
        if not blend:
            target.copy_(kept)
            return joined
        kept = kept.float()
        ramp = cosine_weights(2 * blend * scale, kept.device)
        if column.start > 0:
            kept[:, :, :, : len(ramp)] *= ramp
        if column.stop < self._full_width:
            kept[:, :, :, -len(ramp) :] *= ramp.flip(0)
        target += kept
        return joined

    def _seen(self, column: Span) -> Span:
        """A column with the pixels of its neighbours that the network needs besides."""
        return column.widened(self._overlap, self._full_width)

    def _checked(self, ready: Tensor) -> Tensor:
        """The rows, in bytes if these were asked for. Raises `ImpreciseError`."""
        finite = True
        # A network that gives bytes has checked them itself.
        if ready.dtype != torch.uint8:
            if self._as_bytes:
                ready, finite = to_bytes(ready)
            else:
                # A sum is finite if all its terms are: the cheapest way to check all of them.
                finite = bool(torch.isfinite(ready.sum(dtype=torch.float32)))
        is_half = self._network.dtype != torch.float32
        if not finite or (is_half and not self._is_plausible(ready)):
            raise ImpreciseError
        return ready

    def _is_plausible(self, ready: Tensor) -> bool:
        """False if the result has only one value although the source varies."""
        if ready[0, 0, 0, 0] != ready[-1, -1, -1, -1] or not torch.equal(*torch.aminmax(ready)):
            return True
        scale = self._network.scale
        first, last = self._given // scale, -(-(self._given + ready.shape[2]) // scale)
        darkest, brightest = torch.aminmax(self._rows.take(first, last))
        return bool(brightest - darkest <= _CERTAIN_VARIATION)

    def _give(self, ready: Tensor) -> Tensor:
        scale = self._network.scale
        wanted = self._height * scale - self._given
        self._given += ready.shape[2]
        if self._given < self._height * scale:
            needed = max(self._given // scale - self._network.reach, 0)
            self._rows.drop_before(needed - needed % self._network.align)
        return ready[:, :, :wanted, : self._width * scale]

    def _recover(self, error: Exception) -> bool:
        """Change what made the band fail, and go back to it. False if nothing helps."""
        if isinstance(error, ImpreciseError):
            full = self._host.full_precision(self._network)
            self._network = full if self._network.by_rows or not full.by_rows else full.in_tiles()
        elif is_out_of_memory(error):
            # Free memory first: to cut the picture the network may have to be probed. The error
            # holds what the network had computed, and the streams hold rows.
            clear_frames(error.__traceback__)
            self._streams = ()
            self._host.make_room()
            self._shrink()
        else:
            return False
        self._open()
        return True

    def _shrink(self) -> None:
        """Take less memory: halve the tile, or change from rows to tiles."""
        network, width, rows = self._network, self.tile.width, self.tile.rows
        step = network.align
        shorter, narrower = rows // 2 >= _LEAST_ROWS, width // 2 >= _LEAST_WIDTH
        # By rows, lower bands cost no time. In tiles the longer side is halved.
        if shorter and (network.by_rows or rows >= width or not narrower):
            self.tile = Tile(width, max(rows // 2 // step, 1) * step)
        elif network.by_rows:
            # Narrower columns would not reduce the rows that wait between bands.
            self._network = network.in_tiles()
            side = max(_TILED_SIDE // step, 1) * step
            self.tile = Tile(min(width, side), side)
        elif narrower:
            self.tile = Tile(max(width // 2 // step, 1) * step, rows)
        else:
            raise JobError(
                ErrorCode.OUT_OF_MEMORY,
                f"memory ran out even at a tile of {width} x {rows} pixels: "
                "free some on this machine, or choose a smaller model",
            )

    def _open(self) -> None:
        """Begin at the first row that is kept, and skip the rows that were given already."""
        network, tile = self._network, self.tile
        start = self._rows.start
        height = self._full_height - start
        # A whole picture has no neighbours: how far the network looks need not be known.
        is_whole = not network.by_rows and tile.width >= self._full_width and tile.rows >= height
        self._overlap, align = (0, 1) if is_whole else (network.overlap, network.align)
        exact = is_whole or network.exact
        self._columns = partition(self._full_width, tile.width, align)
        narrowest = min(column.length for column in self._columns)
        self._blend = blend_margin(narrowest, self._overlap, exact=exact)
        # Columns are joined, or blended, before they are rounded.
        whole = self._as_bytes and len(self._columns) == 1
        self._streams = [network.open(height, tile.rows, as_bytes=whole) for _ in self._columns]
        # The row that is fed next.
        self._fed = self._start = start
        self._steps = 0
        self._columns_done = 0
        wanted = self._height - start
        self._work = (
            work_by_rows(height, wanted, tile.rows, network.costs)
            if network.by_rows
            else work_in_tiles(height, wanted, tile.rows, self._overlap, exact=exact)
        )
        self._skip = self._given - start * network.scale

    def _completed(self, bands: Iterable[Tensor]) -> Iterator[Tensor]:
        """The bands, mirrored at the right and lower edges to the size that the network needs."""
        right = self._full_width - self._width
        below = self._full_height - self._height
        last_rows = RowBuffer()
        for band in bands:
            full = mirrored(band, right, 0)
            if below:
                last_rows.push(full)
                last_rows.drop_before(last_rows.end - below - 1)
            yield full
        if below:
            kept = last_rows.take(last_rows.start, last_rows.end)
            yield mirrored(kept, 0, below)[:, :, kept.shape[2] :]


def mirrored(picture: Tensor, right: int, below: int) -> Tensor:
    """Add columns and rows that mirror the picture's; repeat its edge if it is too small for that.

    spandrel does the same to meet a network's size requirements.
    """
    if not right and not below:
        return picture
    height, width = picture.shape[2:]
    across, down = min(right, width - 1), min(below, height - 1)
    picture = functional.pad(picture, (0, across, 0, down), "reflect")
    return functional.pad(picture, (0, right - across, 0, below - down), "replicate")
