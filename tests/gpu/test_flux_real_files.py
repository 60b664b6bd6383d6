"""The published files, where somebody has them: `UPSCALED_REAL_FLUX=DIR pytest -s tests/gpu`.

DIR is a MODEL_CACHE_DIR; the pictures to look at are left in `DIR/looked-at`. What is measured is
printed; on a machine without a GPU this takes hours.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import pyvips

pytest.importorskip("diffusers", reason="needs the flux extra")
# isort: split
import torch

from recording import RecordingContext
from upscaled_bench.one_job import peak_bytes
from upscaled_models.catalog import Catalog, bundled_weights_dir
from upscaled_models.engine import Settings
from upscaled_models.flux.autoencoder import check_autoencoder
from upscaled_models.flux.engine import FluxEngine
from upscaled_models.flux.files import find_files
from upscaled_models.flux.text import tokenize
from upscaled_models.flux.transformer import check_transformer
from upscaled_protocol.configs import FluxConfig

_DIR = os.environ.get("UPSCALED_REAL_FLUX")

pytestmark = [
    pytest.mark.skipif(_DIR is None, reason="UPSCALED_REAL_FLUX names no folder of real files"),
    pytest.mark.timeout(6 * 3600),
]


class TimedContext(RecordingContext):
    """Keeps when each model call began."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[float] = []

    def progress(
        self,
        percent: float,
        stage: str,
        *,
        done: int | None = None,
        total: int | None = None,
        budget_s: float | None = None,
        tail_s: float = 0.0,
    ) -> None:
        if stage == "refine":
            self.steps.append(time.perf_counter())
        super().progress(percent, stage, done=done, total=total, budget_s=budget_s)


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(str(_DIR))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[FluxEngine]:
    engine = FluxEngine(Settings(model_dir=folder))
    engine.start()
    yield engine
    engine.close()


def test_the_files_are_what_the_configs_say(folder: Path) -> None:
    files = find_files(Catalog.load(), "flux", folder)
    assert check_transformer(files) > 0
    check_autoencoder(files)
    # The text encoders are checked as they are loaded, by the first job below.
    prompt = tokenize("", files)
    assert (prompt.clip.shape[1], prompt.t5.shape[1]) == (77, 256)
    if files.clip_tokenizer.is_file() and files.t5_tokenizer.is_file():
        assert tokenize("a photograph", files).t5[0, :4].tolist() != prompt.t5[0, :4].tolist()


def test_a_photograph_is_refined_and_measured(engine: FluxEngine, folder: Path) -> None:
    looked_at = folder / "looked-at"
    looked_at.mkdir(exist_ok=True)
    photograph = next(Path(__file__).parents[2].glob("examples/*.jpg"))
    picture = pyvips.Image.new_from_file(str(photograph))
    small = picture.thumbnail_image(256)
    small.write_to_file(str(looked_at / "in.png"))
    # The bundled model where the usual one is not installed: it is FLUX that is looked at.
    usual = folder / "upscale_models" / "4x-UltraSharp.pth"
    upscaler = "4x-UltraSharp" if usual.is_file() else "compact-x4"
    assert usual.is_file() or (bundled_weights_dir() / "compact-x4.safetensors").is_file()
    results = {}
    for name, denoise in (("first-stage", 0.0), ("refined", 0.2), ("refined-again", 0.2)):
        context = TimedContext()
        started = time.perf_counter()
        outcome = engine.run(
            FluxConfig(
                image_path=str(looked_at / "in.png"),
                output_path=str(looked_at / f"{name}.png"),
                upscale_model=upscaler,
                denoise=denoise,
            ),
            context,
        )
        results[name] = np.asarray(pyvips.Image.new_from_file(str(outcome.output_path)))
        print(f"\n{name}: {time.perf_counter() - started:.1f} s on {outcome.device}")
        if context.steps:
            calls = context.tiles[-1][1]
            spent = context.steps[-1] - context.steps[0]
            print(f"  {calls} model calls, {20 * spent / calls:.2f} s a tile of 20 steps")
        resident = psutil.Process().memory_info().rss
        print(f"  host memory {resident / 1e9:.1f} GB, at most {peak_bytes() / 1e9:.1f} GB")
        if torch.cuda.is_available():
            print(f"  device memory, at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
        print(f"  warnings: {context.warnings}")
    assert np.array_equal(results["refined"], results["refined-again"])
    difference = np.abs(results["refined"].astype(float) - results["first-stage"]).mean()
    # It changes something, and leaves the picture the same picture.
    assert 0.2 < difference < 20
