"""`upscaled bench models`: its measures, its pictures and its model card."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

pytest.importorskip("PIL", reason="the evaluation draws with Pillow")
pytest.importorskip("skimage", reason="the evaluation's pictures are scikit-image's")

from training.graphics import make_graphic
from training.network import Compact, enlarge, save_network
from training.pictures import make_picture
from upscaled_bench import models
from upscaled_bench.evaluation.automatic import automatic
from upscaled_bench.evaluation.card import Evaluation, card
from upscaled_bench.evaluation.edges import FIELDS, PAIRS, Pixels, score_fields, score_lines
from upscaled_bench.evaluation.enlargers import Enlarger, resamplers
from upscaled_bench.evaluation.measures import Score, score
from upscaled_bench.evaluation.trials import CONDITIONS, Picture, _reduced, pictures
from upscaled_bench.evaluation.weightsfile import weights_file
from upscaled_cli import bench, exits


def clipped(pixels: NDArray[np.int_]) -> Pixels:
    levels: Pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    return levels


def nearest(small: Pixels) -> Pixels:
    return small.repeat(2, axis=0).repeat(2, axis=1)


def test_repeated_pixels_draw_no_line_and_change_no_field() -> None:
    lines, fields = score_lines(nearest, 2), score_fields(nearest, 2)
    assert [(line.name, line.below, line.above) for line in lines] == [
        (name, 0, 0) for name in PAIRS
    ]
    assert [(field.name, field.outermost, field.inside) for field in fields] == [
        (name, 0, 0) for name in FIELDS
    ]


def test_a_line_that_is_in_neither_colour_is_measured() -> None:
    def with_line(small: Pixels) -> Pixels:
        large = nearest(small).astype(int)
        large[48] = large.min(axis=(0, 1)) - 40
        return clipped(large)

    lines = {line.name: line for line in score_lines(with_line, 2)}
    assert lines["gray/gray"].below == 40
    assert lines["white/blue"].below == 40
    assert lines["white/black"].below == 0
    assert all(line.above == 0 for line in lines.values())
    # Lanczos passes both colours up and down, as is known of it.
    known = {line.name: line for line in score_lines(resamplers(2)[-1].enlarge, 2)}
    assert known["gray/gray"].below > 10
    assert known["gray/gray"].above > 10


def test_wrong_outermost_pixels_are_told_apart_from_those_inside() -> None:
    def with_frame(small: Pixels) -> Pixels:
        large = nearest(small).astype(int)
        large[5, 5, 1] += 3
        large[:2] -= 25
        return clipped(large)

    fields = {field.name: field for field in score_fields(with_frame, 2)}
    assert (fields["gray"].outermost, fields["gray"].inside) == (25, 3)
    assert (fields["red"].outermost, fields["red"].inside) == (25, 3)
    assert (fields["black"].outermost, fields["black"].inside) == (0, 3)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """Two drawn pictures in the place of all photographs and texts."""
    pictures = [
        Picture("scene", "photograph", make_picture(1, 0, 64)),
        Picture("graphic", "text", make_graphic(1, 5, 64)),
    ]
    monkeypatch.setattr(models, "pictures", lambda _: pictures)
    return pictures


@pytest.mark.usefixtures("drawn")
def test_the_evaluation_prints_a_card_and_keeps_it_with_a_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    save_network(Compact(2, 4, 1), tmp_path / "tiny.safetensors")
    out = tmp_path / "card"
    conditions = ["--conditions", "clean", "JPEG 35"]
    # The command sets it for its whole process.
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    status = bench.main(
        ["models", str(tmp_path / "tiny.safetensors"), "--out", str(out), *conditions]
    )
    assert status == exits.OK
    printed = capsys.readouterr().out
    assert "|  | nearest | bicubic | Lanczos | tiny |" in printed
    assert "| photograph, JPEG 35 | " in printed
    assert "| text, clean | " in printed
    assert "| scene | " in printed
    assert "| white/red | " in printed
    assert "| magenta | " in printed
    assert (out / "card-x2.md").read_text() == printed.removesuffix("\n")
    with Image.open(out / "sheet-x2.png") as sheet:
        assert sheet.width > 4 * 192


def test_repeated_pixels_win_nothing_over_themselves_and_lines_count(
    drawn: list[Picture],
) -> None:
    enlargers = resamplers(2)
    evaluation = Evaluation.run(enlargers, drawn, ["clean"])
    assert evaluation.gains("Lanczos", "clean", ["scene"], lambda one: one.ssim_luma) == [0.0]
    assert evaluation.gains("nearest", "clean", ["scene"], lambda one: one.psnr_rgb)[0] < 0.0
    assert max(line.below for line in evaluation.lines["nearest"]) == 0
    assert max(line.below for line in evaluation.lines["Lanczos"]) > 10


def test_the_worst_photograph_is_named(drawn: list[Picture]) -> None:
    pictures = [drawn[0], Picture("other", "photograph", make_picture(1, 1, 64)), drawn[1]]
    evaluation = Evaluation.run(resamplers(2), pictures, ["clean"])
    gains = evaluation.gains("nearest", "clean", ["scene", "other"], lambda one: one.psnr_rgb)
    worst = ("scene", "other")[gains.index(min(gains))]
    assert f"{min(gains):+.2f} ({worst})" in card(evaluation)


def test_a_score_knows_colour_from_brightness() -> None:
    truth = np.full((32, 32, 3), 128, np.uint8)
    truth[8:24, 8:24] = 90
    assert score(truth, truth, 2) == Score(math.inf, math.inf, 1.0, 1.0)
    tinted = truth.copy()
    tinted[..., 2] += 20
    tinted[:2] = 0  # in the border
    result = score(truth, tinted, 2)
    assert result.psnr_rgb == pytest.approx(10 * math.log10(255**2 / (20**2 / 3)))
    assert result.psnr_luma == pytest.approx(20 * math.log10(255 / (20 * 0.114)))
    assert result.ssim_luma > result.ssim_rgb


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_keeps_the_size_and_repeats(condition: str) -> None:
    picture = Picture("drawn", "photograph", make_picture(1, 0, 67))
    small = picture.reduced(2, condition)
    assert small.shape == (33, 33, 3)
    assert small.dtype == np.uint8
    np.testing.assert_array_equal(small, picture.reduced(2, condition))
    assert np.array_equal(small, picture.reduced(2, "clean")) == (condition == "clean")


def test_pixels_are_averaged_as_stored_or_as_light() -> None:
    checks = np.tile(np.eye(2, dtype=np.uint8)[:, :, None] * 255, (8, 8, 3))
    picture = Picture("checks", "photograph", checks)
    assert np.unique(picture.reduced(2, "by area")).tolist() == [128]
    assert np.unique(picture.reduced(2, "by area in linear light")).tolist() == [188]


def test_all_pictures_to_try_are_there_and_no_larger_than_said(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (900, 20)).save(tmp_path / "mine.png")
    Image.new("RGB", (3000, 2048)).save(tmp_path / "wide.png", compress_level=1)
    found = pictures(tmp_path)
    names = {picture.name for picture in found}
    assert names >= {"astronaut", "retina", "motorcycle", "page", "mine"}
    assert all(picture.pixels.shape[2] == 3 for picture in found)
    assert max(max(picture.pixels.shape) for picture in found) == 768
    # It was reduced before its middle was taken.
    assert _reduced(Image.open(tmp_path / "wide.png")).shape == (1024, 1500, 3)


def test_a_file_of_another_architecture_is_measured_too(tmp_path: Path) -> None:
    network = Compact(2, 4, 1)
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    one = weights_file(tmp_path / "tiny.safetensors")
    assert (one.name, one.scale) == ("tiny", 2)
    small = make_picture(1, 0, 16)
    np.testing.assert_array_equal(one.enlarge(small), enlarge(network, small, torch.float32))


def test_auto_is_measured_if_both_models_of_a_pair_are_there(drawn: list[Picture]) -> None:
    large = dict(zip(("clean", "damaged"), resamplers(2), strict=False))
    networks = [
        Enlarger("compact-x2", 2, large["clean"].enlarge),
        Enlarger("compact-x2-clean", 2, large["damaged"].enlarge),
    ]
    assert automatic(networks[:1]) is None
    auto = automatic(networks)
    assert auto is not None
    evaluation = Evaluation.run([*resamplers(2), *networks, auto], drawn, ["clean", "noise"])
    for condition, name in (("clean", "compact-x2"), ("noise", "compact-x2-clean")):
        assert evaluation.choices["auto", condition, "scene"] == name
        key = (condition, "scene")
        assert evaluation.scores["auto", *key] == evaluation.scores[name, *key]
    written = card(evaluation)
    assert "### The model `auto`" in written
    gain = evaluation.gains("auto", "noise", ["scene"], lambda one: one.psnr_rgb)[0]
    row = next(line for line in written.splitlines() if line.endswith("compact-x2-clean 1 |"))
    assert row.startswith(f"| photograph, noise | {gain:+.2f} | {gain:+.2f} | ")


@pytest.mark.usefixtures("drawn")
def test_a_model_is_named_as_in_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path))
    (tmp_path / "upscale_models").mkdir()
    save_network(Compact(2, 4, 1), tmp_path / "upscale_models" / "mine.safetensors")
    models.main(["mine", "--conditions", "clean"])
    assert "| Lanczos | mine |" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        models.main([str(tmp_path / "none.pth")])
    assert ended.value.code == exits.USAGE
    assert "none.pth" in capsys.readouterr().err


def test_the_evaluation_of_models_runs_only_if_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[str] = []

    def run(name: str, arguments: object = None) -> int:
        assert arguments is None
        ran.append(name)
        return exits.OK

    monkeypatch.setattr(bench, "_run", run)
    assert bench.main([]) == exits.OK
    assert ran == [name for name in bench.BENCHMARKS if name != "models"]
