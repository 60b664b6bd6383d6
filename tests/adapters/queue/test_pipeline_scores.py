"""Scores: the size on the header, and the size that the pixels are worth."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image

from upscaled_queue.pipeline.scores import (
    NoScoreError,
    ScoreFailedError,
    effective_resolution,
    find_score,
    resolution,
)

PHOTOGRAPHS = ("astronaut", "coffee", "rocket")


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)())


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(("size", "score"), [((3840, 2160), 1.0), ((1920, 1080), 0.25)])
def test_resolution_is_the_share_of_a_4k_screen(
    size: tuple[int, int], score: float, tmp_path: Path
) -> None:
    assert resolution(saved(Image.new("1", size), tmp_path / "a.png")) == pytest.approx(score)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_is_worth_its_pixels_and_an_enlarged_one_a_quarter(
    name: str, tmp_path: Path
) -> None:
    original = photograph(name)
    shares = []
    for number, image in enumerate([original, original.resize(
        (original.width * 2, original.height * 2), Image.Resampling.BICUBIC)]):  # fmt: skip
        path = saved(image, tmp_path / f"{number}.png")
        shares.append(effective_resolution(path) / resolution(path))
    assert shares[0] > 0.6
    assert shares[1] < 0.35


def test_jpeg_does_not_hide_an_enlargement(tmp_path: Path) -> None:
    original = photograph("astronaut")
    large = original.resize((1024, 1024), Image.Resampling.BICUBIC)
    path = saved(large, tmp_path / "large.jpg", quality=60)
    assert effective_resolution(path) / resolution(path) < 0.4


def test_a_plain_picture_needs_the_fewest_pixels(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (1920, 1080), "navy"), tmp_path / "plain.png")
    assert effective_resolution(path) == pytest.approx(0.25 * 0.25**2)


@pytest.mark.parametrize("score", [resolution, effective_resolution])
def test_what_is_no_picture_has_no_score(score: object, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    with pytest.raises(NoScoreError):
        score(path)  # type: ignore[operator]


def test_a_picture_that_is_cut_off_has_no_effective_resolution(tmp_path: Path) -> None:
    data = BytesIO()
    photograph("astronaut").save(data, "PNG")
    path = tmp_path / "cut.png"
    path.write_bytes(data.getvalue()[:5000])
    assert resolution(path) > 0
    with pytest.raises(NoScoreError):
        effective_resolution(path)


def test_a_score_of_the_users_own_is_found_by_its_module() -> None:
    assert find_score("os.path:getsize")(Path(__file__)) > 100
    for name in ("nothing", "os.path:nothing", "no_such_module:score", "os:name"):
        with pytest.raises(ValueError, match="score"):
            find_score(name)


@pytest.mark.parametrize("returned", [float("nan"), float("inf"), "much", None])
def test_a_score_of_the_users_own_that_is_no_number_is_an_error_that_names_it(
    returned: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.path.getsize", lambda _: returned)
    with pytest.raises(ScoreFailedError, match=r"os\.path:getsize"):
        find_score("os.path:getsize")(Path(__file__))
