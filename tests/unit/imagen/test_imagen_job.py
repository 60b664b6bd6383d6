"""One picture's way, with a service that answers as it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips

from recording import RecordingContext
from upscaled_models.dimensions import plan_size
from upscaled_models.engine import Settings
from upscaled_models.imagen.account import Account
from upscaled_models.imagen.job import Job
from upscaled_models.imaging.output import plan_output
from upscaled_models.imaging.read import open_source
from upscaled_models.imaging.rows import Picture
from upscaled_models.imaging.stored import stored_rows
from upscaled_models.imaging.write import open_sink
from upscaled_models.registry import is_installed
from upscaled_protocol.configs import ImagenConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

pytestmark = pytest.mark.skipif(
    not is_installed("imagen"), reason="needs pip install 'upscaled[imagen]'"
)

WIDTH, HEIGHT = 60, 50
NOISE = np.random.default_rng(3)
# What the service makes of a picture at x2.
ANSWER = NOISE.integers(0, 256, (2 * HEIGHT, 2 * WIDTH, 3), np.uint8)
PNG = pyvips.Image.new_from_array(ANSWER).pngsave_buffer(filter="all")


def upscaled(folder: Path, answer: bytes, bands: int = 3) -> Path:
    """The output of a job at x2 that gets this answer."""
    path = folder / "in.png"
    source_pixels = np.full((HEIGHT, WIDTH, bands), 255, np.uint8)
    pyvips.Image.new_from_array(source_pixels).write_to_file(str(path))
    config = ImagenConfig(image_path=str(path), upscale_factor="x2")
    settings, context = Settings(model_dir=folder), RecordingContext()

    class Service:
        def upscale(self, calls: list[Any], tally: Any) -> list[bytes]:
            return [answer for _ in calls]

    service: Any = Service()
    account = Account("project", "region", None)
    with open_source(config, settings, context) as source:
        size = Size(width=WIDTH, height=HEIGHT)
        plan = plan_size(config, size, factor=2, default_dpi=settings.default_dpi)
        output = plan_output(config, settings, source, plan, method="imagen", context=context)
        job = Job(config, source, plan, account=account, service=service, context=context)
        with open_sink(output, job.native, source.bands, job.bits) as sink:
            job.upscale(sink)
            return Path(sink.commit())


def test_the_services_png_is_taken_over_as_it_is(tmp_path: Path) -> None:
    picture = Picture(2 * WIDTH, 2 * HEIGHT, 3, 8)
    written = upscaled(tmp_path, PNG).read_bytes()
    assert stored_rows(written, picture) == stored_rows(PNG, picture) is not None


@pytest.mark.parametrize("options", [{"interlace": True}, {"palette": True}])
def test_another_kind_of_png_is_decoded(tmp_path: Path, options: dict[str, bool]) -> None:
    answer = pyvips.Image.new_from_array(ANSWER).pngsave_buffer(**options)
    seen = pyvips.Image.new_from_buffer(answer, "").numpy()
    written = pyvips.Image.new_from_file(str(upscaled(tmp_path, answer))).numpy()
    assert np.array_equal(written, seen)


def test_a_picture_with_alpha_keeps_it(tmp_path: Path) -> None:
    written = pyvips.Image.new_from_file(str(upscaled(tmp_path, PNG, bands=4))).numpy()
    assert np.array_equal(written[:, :, :3], ANSWER)
    assert (written[:, :, 3] == 255).all()


@pytest.mark.parametrize("answer", [PNG[:-40], PNG[: len(PNG) // 2], PNG[:20], b""])
def test_half_a_picture_becomes_no_file(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(JobError) as caught:
        upscaled(tmp_path, answer)
    assert caught.value.code == ErrorCode.UPSTREAM_UNAVAILABLE
    assert [one.name for one in tmp_path.iterdir()] == ["in.png"]
