"""`model: "auto"`: the rule, and a job that chooses its model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import pyvips

from recording import RecordingContext
from tiny_networks import compact, save
from upscaled_imaging.damage import Finding
from upscaled_models.catalog import Catalog
from upscaled_models.engine import Outcome, Settings
from upscaled_models.esrgan.automatic import PAIRS, choose
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_protocol.configs import EsrganConfig

CLEAN, DAMAGED = Finding(False, "it is clean"), Finding(True, "it is noisy")
ALL = frozenset(model for pair in PAIRS for model in (pair.clean, pair.damaged))


@pytest.mark.parametrize(
    ("factor", "clean", "damaged"),
    [
        (1.5, "compact-x2", "compact-x2-clean"),
        (2, "compact-x2", "compact-x2-clean"),
        (3, "compact-x4", "compact-x4-clean"),
        (4, "compact-x4", "compact-x4-clean"),
        (16, "compact-x4", "compact-x4-clean"),
    ],
)
def test_the_smallest_scale_that_reaches_the_factor_is_chosen(
    factor: float, clean: str, damaged: str
) -> None:
    assert choose(CLEAN, factor, ALL.__contains__) == (clean, "it is clean")
    assert choose(DAMAGED, factor, ALL.__contains__) == (damaged, "it is noisy")


def test_a_scale_without_a_model_for_damaged_pictures_takes_the_next() -> None:
    installed = (ALL - {"compact-x2-clean"}).__contains__
    reason = "it is noisy; there is no compact-x2-clean"
    assert choose(DAMAGED, 2, installed) == ("compact-x4-clean", reason)
    assert choose(CLEAN, 2, installed) == ("compact-x2", "it is clean")


def test_without_any_model_for_damaged_pictures_the_reason_says_so() -> None:
    installed = {"compact-x2", "compact-x4"}.__contains__
    reason = "it is noisy, but there is no compact-x2-clean and compact-x4-clean"
    assert choose(DAMAGED, 2, installed) == ("compact-x2", reason)
    reason = "it is noisy, but there is no compact-x4-clean"
    assert choose(DAMAGED, 4, installed) == ("compact-x4", reason)


def test_the_models_for_clean_pictures_come_with_upscaled() -> None:
    catalog = Catalog.load()
    for pair in PAIRS:
        model = catalog.find(pair.clean)
        assert model is not None
        assert (model.bundled, model.scale) == (True, pair.scale)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has a model folder with a stand-in for the model for damaged pictures."""
    models = tmp_path / "models" / "upscale_models"
    models.mkdir(parents=True)
    save(compact(), models / "compact-x4-clean.safetensors")
    return tmp_path


@pytest.fixture
def engine(folder: Path) -> Iterator[EsrganEngine]:
    engine = EsrganEngine(Settings(model_dir=folder / "models"))
    engine.start()
    yield engine
    engine.close()


def photograph(sigma: float) -> np.ndarray:
    """A smooth picture of 150x90 pixels with noise."""
    rows, columns = np.mgrid[0:150, 0:90]
    smooth = 128 + 50 * np.sin(rows / 20) * np.cos(columns / 15)
    noise = np.random.default_rng(0).normal(0, sigma, (150, 90, 3))
    pixels: np.ndarray = np.rint(smooth[:, :, None] + noise).astype(np.uint8)
    return pixels


def run(engine: EsrganEngine, folder: Path, sigma: float, **fields: object) -> Outcome:
    path = folder / "in.png"
    pyvips.Image.new_from_array(photograph(sigma)).copy(interpretation="srgb").write_to_file(
        str(path)
    )
    values = {"image_path": str(path), "output_path": str(folder / "out.png")} | fields
    return engine.run(EsrganConfig.model_validate(values), RecordingContext())


@pytest.mark.parametrize(
    ("sigma", "model", "reason"),
    [
        (0, "compact-x4", "no noise and no strong compression was found"),
        (8, "compact-x4-clean", "the picture has noise of about 8 levels"),
    ],
)
def test_a_job_takes_the_model_that_suits_its_picture_and_says_why(
    engine: EsrganEngine, folder: Path, sigma: float, model: str, reason: str
) -> None:
    outcome = run(engine, folder, sigma, model="auto")
    assert (outcome.model, outcome.model_reason) == (model, reason)
    chosen = pyvips.Image.new_from_file(str(folder / "out.png")).numpy()
    assert chosen.shape == (600, 360, 3)
    named = run(engine, folder, sigma, model=model)
    assert (named.model, named.model_reason) == (model, None)
    expected = pyvips.Image.new_from_file(str(folder / "out.png")).numpy()
    np.testing.assert_array_equal(chosen, expected)


@pytest.mark.parametrize(
    ("model", "quality", "warns"),
    [
        ("compact-x4", 40, True),
        ("compact-x4", 95, False),
        ("compact-x4-clean", 40, False),
        ("auto", 40, False),
    ],
)
def test_a_model_for_clean_pictures_that_is_named_for_a_poor_jpeg_gets_a_warning(
    engine: EsrganEngine, folder: Path, model: str, quality: int, warns: bool
) -> None:
    path = folder / "in.jpg"
    picture = pyvips.Image.new_from_array(photograph(0)).copy(interpretation="srgb")
    picture.jpegsave(str(path), Q=quality)
    context = RecordingContext()
    values = {"image_path": str(path), "output_path": str(folder / "out.png"), "model": model}
    engine.run(EsrganConfig.model_validate(values), context)
    assert [f"quality {quality}" in text for text in context.warnings] == [True] * warns
    assert all("compact-x4-clean" in text for text in context.warnings)


def test_preloading_auto_loads_every_model_that_it_may_choose(folder: Path) -> None:
    engine = EsrganEngine(Settings(model_dir=folder / "models", preload=("auto",)))
    engine.start()
    expected = {"compact-x2", "compact-x4", "compact-x4-clean"}
    assert expected <= set(engine.models_loaded())
    engine.close()
