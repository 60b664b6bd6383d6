"""One picture in the service: cut, sent, received, blended, its alpha added again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from upscaled_imaging.dimensions import Plan
from upscaled_imaging.read import Source
from upscaled_models.engine import Context
from upscaled_models.imagen.account import Account
from upscaled_models.imagen.alpha import enlarged
from upscaled_models.imagen.layout import Layout, choose_factor, lay_out
from upscaled_models.imagen.mosaic import join
from upscaled_models.imagen.picture import Read, encoded, open_answer, to_rgb
from upscaled_models.picture import Enlargement, RowBlocks
from upscaled_models.tiling import Span
from upscaled_protocol.configs import ImagenConfig
from upscaled_protocol.messages import Size

if TYPE_CHECKING:
    from upscaled_models.imagen.service import Service

# Rows that are read at once if no call is needed.
_READ_ROWS = 64
# A target is larger than the service can make it if it is larger by more than this factor.
_NOTABLE = 1.03


class ImagenEnlargement(Enlargement):
    """Takes the source's rows and gives those that the service made of them."""

    device = "remote"

    def __init__(
        self,
        config: ImagenConfig,
        source: Source,
        plan: Plan,
        *,
        account: Account,
        service: Service,
        context: Context,
    ) -> None:
        """Raises `JobError` (input_too_large)."""
        from upscaled_models.imagen.service import Tally

        self._config = config
        self._source = source
        self._account = account
        self._service = service
        self._context = context
        size = Size(width=source.width, height=source.height)
        factor = choose_factor(size, plan, limit=int(config.upscale_factor.removeprefix("x")))
        self.size = Size(width=size.width * factor, height=size.height * factor)
        # The service works with 8 bits.
        self.bits = source.bits if factor == 1 else 8
        if factor > 1 and source.bits > self.bits:
            context.warn("Imagen works with 8 bits a channel: so does the output")
        if factor > 1 and plan.scaled.width > self.size.width * _NOTABLE:
            context.warn(f"the target is larger than x{factor} makes it: the rest was resampled")
        self._layout = (
            lay_out(size, factor, tile=config.tile, tile_size=config.tile_size)
            if factor > 1
            else Layout(factor, [], [])
        )
        self._tally = Tally(context, self._layout.calls)

    @property
    def upstream_calls(self) -> int:
        """Calls so far, each of which may be billed."""
        return self._tally.made

    def rows(self) -> RowBlocks:
        """The enlarged rows. Raises `JobError`."""
        if self._layout.factor == 1:
            yield from self._source_rows()
        else:
            yield from join(self._answered(), self._layout)

    def _source_rows(self) -> RowBlocks:
        """The source as it is, if no call is needed."""
        while self._source.rows_left:
            with self._context.phase("decode"):
                rows = self._source.rows(_READ_ROWS)
            self._context.progress(
                100 * (1 - self._source.rows_left / self._source.height), "resample"
            )
            yield rows

    def _answered(self) -> Iterator[list[Read]]:
        """For each row of tiles, a reader of each tile's answer."""
        columns = self._layout.columns
        for rows in self._windows():
            with self._context.phase("decode"):
                rgb = to_rgb(rows, has_alpha=self._source.has_alpha)
                questions = [encoded(rgb[:, span.start : span.stop]) for span in columns]
            answers = self._call(questions)
            yield [
                self._reader(answer, rows, span)
                for answer, span in zip(answers, columns, strict=True)
            ]

    def _call(self, questions: list[tuple[bytes, str]]) -> list[bytes]:
        """The service's answers to these files, each with its MIME type."""
        from upscaled_models.imagen.service import Call

        factor = f"x{self._layout.factor}"
        calls = [Call(self._account, self._config.model, factor, *one) for one in questions]
        with self._context.phase("inference"):
            return self._service.upscale(calls, self._tally)

    def _windows(self) -> Iterator[np.ndarray]:
        """The source's rows, (h, W, C), of each of the layout's spans; neighbours overlap."""
        held = self._source.rows(0)
        start = 0
        for span in self._layout.rows:
            with self._context.phase("decode"):
                fresh = self._source.rows(span.stop - start - len(held))
            held = np.concatenate([held[span.start - start :], fresh])
            start = span.start
            yield held

    def _reader(self, answer: bytes, rows: np.ndarray, span: Span) -> Read:
        """A reader of one tile's rows, with alpha if the source has it."""
        factor = self._layout.factor
        due = Size(width=span.length * factor, height=len(rows) * factor)
        has_alpha = self._source.has_alpha
        bands = self._source.bands - has_alpha
        read = open_answer(answer, due, bands, self._context.warn)
        if not has_alpha:
            return read
        alpha = rows[:, span.start : span.stop, -1]
        given = 0

        def read_with_alpha(count: int) -> np.ndarray:
            nonlocal given
            colours = read(count)
            joined = np.concatenate([colours, enlarged(alpha, given, count, factor)], axis=2)
            given += count
            return joined

        return read_with_alpha
