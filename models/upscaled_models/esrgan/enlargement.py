"""One picture in the networks of its job: one step after the other, and its progress."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from torch import Tensor

from upscaled_imaging.dimensions import Plan
from upscaled_imaging.read import Source
from upscaled_imaging.rows import Picture
from upscaled_models.device.precision import NAMES
from upscaled_models.engine import Context
from upscaled_models.esrgan.pixels import to_picture, to_rows
from upscaled_models.esrgan.readahead import read_ahead
from upscaled_models.esrgan.step import Loaded, Step
from upscaled_models.picture import Enlargement, RowBlocks
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

# If the last enlargement is smaller than this, it is resampled: another pass through the network
# would take many times as long, and the difference cannot be seen.
_NEGLIGIBLE = 1.03
# Rows that are read at once if there is no network, which would ask for a certain number.
_READ_ROWS = 64
# A tile of the largest networks on a slow processor.
_TILE_BUDGET_S = 300.0


class EsrganEnlargement(Enlargement):
    """Takes the source's rows and gives enlarged ones; the host of its steps.

    before: a network of scale 1 that the picture passes first. What it gives goes to the other
    network in floats, band by band.
    memory_bytes: the most memory that a tile may take. free_memory: called after memory ran out.
    Raises `JobError` (invalid_job) if a network cannot have its part.
    """

    def __init__(
        self,
        loaded: Loaded,
        source: Source,
        plan: Plan,
        *,
        before: Loaded | None = None,
        tile_size: int | None,
        context: Context,
        memory_bytes: int,
        free_memory: Callable[[], None],
    ) -> None:
        self.device = str(loaded.network.device)
        self.in_turns = loaded.network.device.type == "cpu"
        self.bits = source.bits
        self._bands: Iterable[np.ndarray] = ()
        # Rows that the encoder has taken, and how long the job waited for it.
        self._taken_rows = 0
        self._taken_s = 0.0
        self._started_at = 0.0
        self._network = loaded.network
        self._source = source
        self._context = context
        self._free_memory = free_memory
        picture = Picture(source.width, source.height, source.bands, source.bits)
        passes = [(loaded, _passes(loaded, picture, plan))]
        if before is not None:
            _check_scale(before)
            passes.insert(0, (before, 1))
        passes = [(each, count) for each, count in passes if count]
        # All passes run at the same time.
        memory_bytes //= max(sum(count for _, count in passes), 1)
        self._steps = [
            Step(
                each,
                picture,
                count,
                # Without a circle of references, what the job held is freed at its end.
                host=weakref.proxy(self),
                tile_size=tile_size,
                memory_bytes=memory_bytes,
                # The last step can round its pixels to the file's bytes.
                as_bytes=source.bits == 8 and each is passes[-1][0],
            )
            for each, count in passes
        ]
        if before is not None and before.network.dtype != self._steps[-1].network.dtype:
            name = NAMES[before.network.dtype]
            context.warn(f"the pre_model {before.name} was computed in {name}")
        # How long the job is in each step, in any unit.
        self._weights = [1.0] * len(self._steps)
        scale = 1
        for each, count in passes:
            scale *= each.network.scale**count
        self.size = Size(width=source.width * scale, height=source.height * scale)

    @property
    def precision(self) -> str:
        """What the last network computes in; float32 after half precision failed."""
        network = self._steps[-1].network if self._steps else self._network
        return NAMES[network.dtype]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read the source ahead, in a thread of its own, until the context is left."""
        with read_ahead(self.read(), self._context.check_cancelled) as bands:
            self._bands = bands
            try:
                yield
            finally:
                self._bands = ()

    def rows(self) -> RowBlocks:
        """The enlarged rows; `reading` comes before."""
        return self.upscale(self._bands)

    def read(self) -> Iterator[np.ndarray]:
        """The source's rows, in bands as the first stage takes them."""
        rows = self._steps[0].stages[0].tile.rows if self._steps else _READ_ROWS
        while self._source.rows_left:
            with self._context.phase("decode"):
                band = self._source.rows(rows)
            yield band

    def upscale(self, bands: Iterable[np.ndarray]) -> RowBlocks:
        """Bands of the source, (h, W, C), to bands of the enlarged picture, in the same format."""
        if not self._steps:
            yield from bands
            return
        # The time left is computed from here on, because the job waited for the device before.
        self._context.progress(0, "upscale", budget_s=_TILE_BUDGET_S)
        if len(self._steps) > 1:
            self._weights = [step.expected_s() for step in self._steps]
        self._started_at = time.perf_counter()
        device = self._network.device
        results: Iterator[Tensor] = (to_picture(band, device) for band in bands)
        for step in self._steps:
            results = step.run(results)
        while True:
            with self._context.phase("inference"):
                picture = next(results, None)
                if picture is None:
                    return
                rows = to_rows(picture, self.bits)
                # The encoder may keep the rows for a while: free the picture before.
                del picture
            given = time.perf_counter()
            yield rows
            self._taken_s += time.perf_counter() - given
            self._taken_rows += len(rows)

    def tile_done(self) -> None:
        """Report progress to the worker. Raises `JobError` (cancelled)."""
        stages = [stage for step in self._steps for stage in step.stages]
        done = sum(stage.tiles_done for stage in stages)
        total = done + sum(stage.tiles_left for stage in stages)
        self._context.progress(
            100 * self._share_done(),
            "upscale",
            done=done,
            total=total,
            budget_s=_TILE_BUDGET_S,
            tail_s=self.tail_s,
        )

    def _share_done(self) -> float:
        """The share of the time that the network and the encoder need in turns."""
        computed = sum(
            weight * step.share_done
            for weight, step in zip(self._weights, self._steps, strict=True)
        ) / sum(self._weights)
        network_s = time.perf_counter() - self._started_at - self._taken_s
        if not self._taken_rows or network_s <= 0:
            return computed
        taken = self._taken_rows / self.size.height
        # The encoder's time for the whole picture, as a multiple of the network's. After memory ran
        # out, no work may be done yet although the encoder has rows.
        weight = self._taken_s * computed / (taken * network_s)
        return (computed + weight * taken) / (1 + weight)

    def make_room(self) -> None:
        """Free memory after it ran out."""
        self._context.warn("memory ran out: the picture was finished in smaller tiles")
        self._free_memory()

    def warn(self, text: str) -> None:
        self._context.warn(text)


def _passes(loaded: Loaded, picture: Picture, plan: Plan) -> int:
    """How often the picture passes the network. Raises `JobError` if that cannot reach the size."""
    scaled = plan.scaled
    missing = max(scaled.width / picture.width, scaled.height / picture.height)
    scale = loaded.network.scale
    if scale == 1:
        if missing > _NEGLIGIBLE:
            raise JobError(
                ErrorCode.INVALID_JOB,
                f"the model {loaded.name} does not enlarge (its scale is 1), and the job asks for "
                f"{scaled.width}x{scaled.height} pixels from {picture.width}x{picture.height}: "
                "give a model that does, and this one as pre_model, or ask for a factor of 1",
            )
        return 1
    passes = 0
    while missing > _NEGLIGIBLE:
        missing /= scale
        passes += 1
    return passes


def _check_scale(before: Loaded) -> None:
    """Raise `JobError` for a network that enlarges."""
    scale = before.network.scale
    if scale != 1:
        raise JobError(
            ErrorCode.INVALID_JOB,
            f"the pre_model {before.name} enlarges {scale} times: give one of scale 1, such as a "
            "denoiser",
        )
