"""What every engine that enlarges pictures gets from `PictureEngine`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import pyvips

from nearest_engine import NearestEngine
from recording import RecordingContext
from upscaled_imaging.dimensions import Plan
from upscaled_imaging.read import Source
from upscaled_models.engine import Context, Outcome, Settings
from upscaled_models.picture import Enlarge, Enlargement, PictureEngine, RowBlocks
from upscaled_protocol.configs import EsrganConfig, ImagenConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import CropInfo, Size


class Counting(PictureEngine[EsrganConfig]):
    """Gives rows of the plan's own output size, each with its number as its value."""

    method = "esrgan"

    def __init__(self, folder: Path, *, fails_at: int | None = None) -> None:
        super().__init__(Settings(model_dir=folder))
        self.fails_at = fails_at
        self.turn = Lock()
        self.had_turn: list[bool] = []
        self.closed: list[str] = []

    def prepare(self, config: EsrganConfig, _context: Context) -> Enlarge:
        if config.model == "missing":
            raise JobError(ErrorCode.MODEL_NOT_FOUND, "there is no such model")

        def enlarge(source: Source, plan: Plan) -> AbstractContextManager[Enlargement]:
            return nullcontext(Numbered(self, source, plan))

        return enlarge


class Numbered(Enlargement):
    device = "cpu"
    upstream_calls = 7

    def __init__(self, engine: Counting, source: Source, plan: Plan) -> None:
        self._engine = engine
        self._shape = (1, plan.output.width, source.bands)
        self.size, self.bits = plan.output, 8

    def rows(self) -> RowBlocks:
        try:
            for number in range(self.size.height):
                self._engine.had_turn.append(self._engine.turn.locked())
                if number == self._engine.fails_at:
                    raise JobError(ErrorCode.CANCELLED, "the host cancelled the job")
                yield np.full(self._shape, number, np.uint8)
        finally:
            self._engine.closed.append("rows")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    pixels = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)
    pyvips.Image.new_from_array(pixels).write_to_file(str(path))
    return path


def run(engine: PictureEngine[EsrganConfig], picture: Path, **fields: Any) -> Outcome:
    given = {"image_path": str(picture), "output_path": str(picture.parent / "out.png")} | fields
    turn = engine.turn if isinstance(engine, Counting) else None
    return engine.run(EsrganConfig(**given), RecordingContext(turn=turn))


def test_a_result_says_where_the_picture_is_and_what_made_it(picture: Path) -> None:
    engine = Counting(picture.parent)
    outcome = run(engine, picture, model="m", target_width_inches=0.5, target_height_inches=0.5)
    assert outcome == Outcome(
        output_path=str(picture.parent / "out.png"),
        input_size=Size(width=40, height=30),
        output_size=Size(width=100, height=75),
        scale_factor=2.5,
        crop_info=CropInfo(direction="horizontal", amount_px=25, amount_inches=25 / 150),
        model="m",
        device="cpu",
        upstream_calls=7,
    )


def test_a_result_may_hold_the_picture(picture: Path) -> None:
    outcome = run(Counting(picture.parent), picture, output_path=None, output_base64=True)
    assert outcome.output_path is None
    assert str(outcome.output_base64).startswith("iVBO")


def test_rows_of_the_outputs_size_are_not_cropped_again(picture: Path) -> None:
    sides = {"target_width": 60, "target_height": 60, "crop": "center"}
    outcome = run(Counting(picture.parent), picture, **sides)
    written = pyvips.Image.new_from_file(str(outcome.output_path)).numpy()
    assert np.array_equal(written[:, 0, 0], np.arange(60))
    assert written.shape == (60, 60, 3)


def test_rows_of_another_size_are_resampled_and_cropped(picture: Path) -> None:
    engine = NearestEngine(Settings(model_dir=picture.parent))
    sides = {"target_width": 50, "target_height": 50, "crop": "left"}
    outcome = run(engine, picture, **sides)
    written = pyvips.Image.new_from_file(str(outcome.output_path))
    assert (written.width, written.height) == (50, 50)
    assert outcome.crop_info is not None


def test_the_factor_of_each_method_is_a_number() -> None:
    assert EsrganConfig(image_path="a").factor is None
    assert EsrganConfig(image_path="a", upscale_factor=2.5).factor == 2.5
    assert ImagenConfig(image_path="a", upscale_factor="x3").factor == 3


def test_a_job_has_the_device_while_its_rows_are_computed_and_only_then(picture: Path) -> None:
    engine = Counting(picture.parent)
    run(engine, picture)
    assert set(engine.had_turn) == {True}
    assert not engine.turn.locked()


def test_an_engine_without_a_device_does_not_wait_for_one(picture: Path) -> None:
    engine = Counting(picture.parent)
    engine.takes_turns = False  # type: ignore[misc]  # as of another class
    run(engine, picture)
    assert set(engine.had_turn) == {False}


def test_a_missing_model_is_reported_before_the_picture_is_opened(tmp_path: Path) -> None:
    with pytest.raises(JobError) as failed:
        run(Counting(tmp_path), tmp_path / "none.png", model="missing")
    assert failed.value.code == ErrorCode.MODEL_NOT_FOUND


def test_a_job_that_fails_leaves_no_file_and_closes_its_rows(picture: Path) -> None:
    engine = Counting(picture.parent, fails_at=20)
    with pytest.raises(JobError, match="cancelled"):
        run(engine, picture)
    assert [path.name for path in picture.parent.iterdir()] == ["in.png"]
    assert engine.closed == ["rows"]
    assert not engine.turn.locked()
