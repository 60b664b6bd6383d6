"""One picture in the engine, with a service that gives a fixed answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips

from recording import RecordingContext
from upscaled_models.engine import Settings
from upscaled_models.imagen.engine import ImagenEngine
from upscaled_models.registry import is_installed
from upscaled_protocol.configs import ImagenConfig
from upscaled_protocol.errors import ErrorCode, JobError

pytestmark = pytest.mark.skipif(
    not is_installed("imagen"), reason="needs pip install 'upscaled[imagen]'"
)

WIDTH, HEIGHT = 60, 50
NOISE = np.random.default_rng(3)
# What the service makes of a picture at x2.
ANSWER = NOISE.integers(0, 256, (2 * HEIGHT, 2 * WIDTH, 3), np.uint8)
PNG = pyvips.Image.new_from_array(ANSWER).pngsave_buffer(filter="all")


class Service:
    """Gives one answer to all, and keeps what it was sent."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.sent: list[bytes] = []

    def upscale(self, calls: list[Any], tally: Any) -> list[bytes]:
        self.sent += [call.data for call in calls]
        return [self._answer for _ in calls]


def upscaled(folder: Path, answer: bytes, bands: int = 3) -> Path:
    """The output of a job at x2 that gets this answer, for a white picture."""
    source = pyvips.Image.new_from_array(np.full((HEIGHT, WIDTH, bands), 255, np.uint8))
    path = folder / "in.png"
    source.write_to_file(str(path))
    return run(path, Service(answer))


def run(path: Path, service: Any) -> Path:
    """The output of a job at x2."""
    engine = ImagenEngine(Settings(model_dir=path.parent))
    engine._service = service
    config = ImagenConfig(image_path=str(path), upscale_factor="x2", gcp_project_id="project")
    outcome = engine.run(config, RecordingContext())
    assert outcome.output_path is not None
    return Path(outcome.output_path)


@pytest.mark.parametrize("options", [{}, {"interlace": True}, {"palette": True}])
def test_the_output_has_the_pixels_of_the_services_png(
    tmp_path: Path, options: dict[str, bool]
) -> None:
    answer = pyvips.Image.new_from_array(ANSWER).pngsave_buffer(**options)
    seen = pyvips.Image.new_from_buffer(answer, "").numpy()
    written = pyvips.Image.new_from_file(str(upscaled(tmp_path, answer))).numpy()
    assert np.array_equal(written, seen)


def sent(folder: Path, picture: pyvips.Image, **options: Any) -> tuple[bytes, bytes]:
    """A PNG file of the picture, and what the service is sent of it."""
    path = folder / "in.png"
    picture.pngsave(str(path), **options)
    service = Service(PNG)
    run(path, service)
    [data] = service.sent
    return path.read_bytes(), data


SOURCE = pyvips.Image.new_from_array(NOISE.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def test_only_the_pixels_of_a_picture_are_sent(tmp_path: Path) -> None:
    told = SOURCE.copy()
    told.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Artist", "a name")
    told.set_type(pyvips.GValue.blob_type, "xmp-data", b"<x:xmpmeta/>")
    given, data = sent(tmp_path, told, filter="all", profile="p3")
    assert np.array_equal(pyvips.Image.new_from_buffer(data, "").numpy(), SOURCE.numpy())
    kinds = {kind for kind in (b"eXIf", b"iCCP", b"iTXt", b"pHYs") if kind in given}
    assert kinds >= {b"eXIf", b"iCCP"}
    assert not any(kind in data for kind in kinds)


def turned() -> pyvips.Image:
    """Upside down, as a camera may have been held: of the same size when upright."""
    picture = SOURCE.copy()
    picture.set_type(pyvips.GValue.gint_type, "orientation", 3)
    return picture


@pytest.mark.parametrize(
    ("picture", "options"),
    [(SOURCE, {"interlace": True}), (SOURCE, {"palette": True}), (turned(), {})],
    ids=["interlaced", "palette", "turned"],
)
def test_a_png_is_sent_as_the_picture_that_it_shows(
    tmp_path: Path, picture: pyvips.Image, options: dict[str, Any]
) -> None:
    given, data = sent(tmp_path, picture, **options)
    shown = pyvips.Image.new_from_buffer(given, "").autorot().numpy()
    assert np.array_equal(pyvips.Image.new_from_buffer(data, "").numpy(), shown)


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:-30] + data[-29:]])
def test_a_broken_png_is_not_sent(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(damage(SOURCE.pngsave_buffer()))
    service = Service(PNG)
    with pytest.raises(JobError) as caught:
        run(path, service)
    assert caught.value.code == ErrorCode.INPUT_UNREADABLE
    assert not service.sent


def test_a_picture_with_alpha_keeps_it(tmp_path: Path) -> None:
    written = pyvips.Image.new_from_file(str(upscaled(tmp_path, PNG, bands=4))).numpy()
    assert np.array_equal(written[:, :, :3], ANSWER)
    assert (written[:, :, 3] == 255).all()


@pytest.mark.parametrize("answer", [PNG[:-40], PNG[: len(PNG) // 2], PNG[:20], b""])
def test_half_a_picture_is_not_written(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(JobError) as caught:
        upscaled(tmp_path, answer)
    assert caught.value.code == ErrorCode.UPSTREAM_UNAVAILABLE
    assert [one.name for one in tmp_path.iterdir()] == ["in.png"]
