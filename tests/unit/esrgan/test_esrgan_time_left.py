"""The time left of a job is right within a fifth after its first tenth, on a clock that counts the
network's work."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recording import RecordingContext
from tiny_networks import CPU
from upscaled_imaging import encodetime
from upscaled_imaging.dimensions import plan_size
from upscaled_models.esrgan.architectures import ModelTiling
from upscaled_models.esrgan.enlargement import EsrganEnlargement
from upscaled_models.esrgan.step import Loaded
from upscaled_models.esrgan.tilestream import TileStream
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.messages import Size
from upscaled_worker.pace import Pace

LOAD_S, WARM_UP_S = 70.0, 2.0
PIXEL_S = 0.004
# What the encoder takes of the network's time, if it takes rows.
ENCODED = 0.15


@dataclass
class Clock:
    now: float = 0.0


@dataclass
class Network:
    """Enlarges by repeating pixels, and takes its time for each that it computes."""

    clock: Clock
    by_rows: bool
    lag: int
    overlap: int = 16
    exact: bool = False
    scale: int = 2
    pixel_s: float = PIXEL_S
    channels: int = 3
    align: int = 1
    column_bytes: int = 0
    pixel_bytes: int = 1
    pixel_values: int = 1
    reach: int = 200
    tiling: ModelTiling = ModelTiling.SUPPORTED
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU
    is_warm: bool = False
    # Of the last of ten layers, beside one of the others.
    last_cost: float = 1.0

    @property
    def costs(self) -> list[tuple[float, float]]:
        """Each layer is a tenth of the lag behind the one before."""
        lags = [self.lag * (layer + 1) // 10 for layer in range(10)]
        costs = [1.0] * 9 + [self.last_cost]
        return [(lag, cost / sum(costs)) for lag, cost in zip(lags, costs, strict=True)]

    def padded(self, side: int) -> int:
        return side

    def in_tiles(self) -> Network:
        return replace(self, by_rows=False)

    def spend(self, pixels: float) -> None:
        self.clock.now += 0 if self.is_warm else WARM_UP_S
        self.is_warm = True
        self.clock.now += self.pixel_s * pixels

    def forward(self, tile: Tensor) -> Tensor:
        self.spend(tile.shape[2] * tile.shape[3])
        return functional.interpolate(tile, scale_factor=self.scale)

    def open(self, height: int, band_rows: int, *, as_bytes: bool = False) -> Any:
        if self.by_rows:
            return LayeredStream(self, height, band_rows)
        return TileStream(
            self.forward,
            scale=self.scale,
            height=height,
            band_rows=band_rows,
            overlap=self.overlap,
            exact=self.exact,
        )


@dataclass
class LayeredStream:
    """By rows, layer after layer."""

    network: Network
    height: int
    band_rows: int
    rows: list[Tensor] = field(default_factory=list)
    time: int = 0
    given: int = 0

    def feed(self, rows: Tensor) -> Tensor | None:
        self.rows.append(rows)
        return self.drain()

    def drain(self) -> Tensor | None:
        before, self.time = self.time, self.time + self.band_rows
        rows = sum(
            (self.done(self.time - int(lag)) - self.done(before - int(lag))) * cost
            for lag, cost in self.network.costs
        )
        picture = torch.cat(self.rows, 2)
        self.network.spend(rows * picture.shape[3])
        first, self.given = self.given, self.done(self.time - self.network.lag)
        ready = picture[:, :, first : self.given]
        scale = self.network.scale
        return functional.interpolate(ready, scale_factor=scale) if ready.shape[2] else None

    def done(self, rows: int) -> int:
        return min(max(rows, 0), self.height)


class Source:
    bands, bits, has_alpha = 3, 8, False

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.rows_left = height

    def rows(self, count: int) -> np.ndarray:
        count = min(count, self.rows_left)
        self.rows_left -= count
        return np.random.default_rng(0).integers(0, 255, (count, self.width, 3), np.uint8)


class Timed(RecordingContext):
    """Keeps how long the worker would say that the job still takes, and when."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.pace = Pace(0.0)
        self.percent = 0.0
        self.told: list[tuple[float, float]] = []

    def progress(self, percent: float, stage: str, **fields: Any) -> None:
        super().progress(percent, stage)
        if not percent:
            self.pace.begin(self.clock.now, percent)
            return
        self.percent = max(self.percent, percent)
        self.pace.reach(self.clock.now, self.percent)
        left_s = self.pace.seconds_left(fields["tail_s"])
        if left_s is not None:
            self.told.append((self.clock.now, left_s))


@pytest.mark.parametrize("last_cost", [1.0, 5.0])
@pytest.mark.parametrize("factor", [2.0, 8.0])
@pytest.mark.parametrize(
    ("by_rows", "lag", "tile_size", "tail_s"),
    [
        (True, 20, 32, 30.0),
        (True, 150, 32, 30.0),
        (False, 16, 32, 30.0),
        (False, 16, 50, 30.0),
        # The encoder takes rows, as the network gives them: a deep one gives none for long.
        (True, 20, 32, 0.0),
        (False, 16, 32, 0.0),
        (False, 16, 50, 0.0),
    ],
)
def test_the_time_left_is_right_after_the_first_tenth(
    by_rows: bool,
    lag: int,
    tile_size: int,
    factor: float,
    tail_s: float,
    last_cost: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(LOAD_S)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    network = Network(clock, by_rows, lag, last_cost=last_cost)
    context = Timed(clock)
    config = EsrganConfig(image_path="in.png", upscale_factor=factor)
    plan = plan_size(config, Size(width=90, height=130), factor=factor, default_dpi=150)
    job = EsrganEnlargement(
        loaded(network),
        cast(Any, Source(90, 130)),
        plan,
        tile_size=tile_size,
        context=context,
        memory_bytes=2**30,
        free_memory=lambda: None,
    )
    job.tail_s = tail_s
    height = 130 * factor
    passes_s = [PIXEL_S * 90 * 130 * 4**number for number in range(round(math.log2(factor)))]
    row_s = 0 if tail_s else ENCODED * sum(passes_s) / height
    for rows in job.upscale(job.read()):
        clock.now += row_s * len(rows)
    end = clock.now + tail_s
    tenth = LOAD_S + (end - LOAD_S) / 10
    told = [(now, left_s) for now, left_s in context.told if now >= tenth]
    assert len(told) > 4
    for now, left_s in told:
        assert left_s == pytest.approx(end - now, rel=0.2), f"at {now:.1f} of {end:.1f} s"


@pytest.mark.parametrize("by_rows", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("speed", [0.25, 1.0, 8.0])
def test_the_time_left_is_right_with_a_first_step_of_another_speed(
    by_rows: tuple[bool, bool], speed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(LOAD_S)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    first = Network(clock, by_rows[0], 20, scale=1, pixel_s=PIXEL_S / speed)
    second = Network(clock, by_rows[1], 20)
    context = Timed(clock)
    config = EsrganConfig(image_path="in.png", upscale_factor=2)
    size = Size(width=90, height=400)
    job = EsrganEnlargement(
        loaded(second),
        cast(Any, Source(size.width, size.height)),
        plan_size(config, size, factor=2, default_dpi=150),
        before=loaded(first),
        tile_size=32,
        context=context,
        memory_bytes=2**30,
        free_memory=lambda: None,
    )
    for _ in job.upscale(job.read()):
        pass
    assert context.percents == sorted(context.percents)
    end = clock.now
    tenth = LOAD_S + (end - LOAD_S) / 10
    told = [(now, left_s) for now, left_s in context.told if now >= tenth]
    assert len(told) > 4
    for now, left_s in told:
        assert left_s == pytest.approx(end - now, rel=0.2, abs=0.1), f"at {now:.1f} of {end:.1f} s"


def loaded(network: Network) -> Loaded:
    return Loaded("network", cast(Any, network), lambda: cast(Any, network))


def test_a_picture_that_begins_again_in_tiles_has_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out after rows were given; the first steps in tiles compute nothing."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    # A tile waits for more rows than the first band in tiles has.
    network = Network(clock, by_rows=True, lag=20, overlap=140)
    drain = LayeredStream.drain

    def failing_drain(stream: LayeredStream) -> Tensor | None:
        if network.by_rows and stream.time >= 80:
            raise MemoryError
        return drain(stream)

    monkeypatch.setattr(LayeredStream, "drain", failing_drain)
    plan = plan_size(
        EsrganConfig(image_path="in.png", upscale_factor=2.0),
        Size(width=90, height=130),
        factor=2.0,
        default_dpi=150,
    )
    job = EsrganEnlargement(
        loaded(network),
        cast(Any, Source(90, 130)),
        plan,
        tile_size=30,
        context=Timed(clock),
        memory_bytes=2**30,
        free_memory=lambda: None,
    )
    heights = []
    for rows in job.upscale(job.read()):
        clock.now += 1
        heights.append(len(rows))
    assert sum(heights) == 260


def test_the_encoder_of_a_whole_picture_is_expected_to_take_what_the_last_one_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encodetime, "_seen", {"avif": 1.0})
    assert encodetime.expected_s("avif", 2_000_000) == 2.0
    encodetime.keep_encode_time("avif", 1_000_000, 7.0)
    encodetime.keep_encode_time("png", 1_000_000, 7.0)
    assert encodetime.expected_s("avif", 2_000_000) == 14.0
    assert encodetime.expected_s("png", 2_000_000) == 0.0


def test_there_is_no_time_left_before_there_is_a_pace() -> None:
    pace = Pace(0.0)
    assert pace.seconds_left() is None
    pace.reach(0.5, 0.5)
    assert pace.seconds_left() is None
    pace.reach(10.0, 10.0)
    assert pace.seconds_left(3.0) == pytest.approx(90 + 3, rel=0.01)
    pace.begin(50.0, 10.0)  # it waited for the device
    assert pace.seconds_left() is None
    pace.reach(60.0, 20.0)
    assert pace.seconds_left() == pytest.approx(80)


def test_marks_do_not_pile_up() -> None:
    pace = Pace(0.0)
    for step in range(1, 10_001):
        pace.reach(step, step / 100)
    assert len(pace._marks) < 200
    assert pace.seconds_left() == 0.0
