"""The options of `upscaled upscale`: the config that they make, sizes, and remarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from upscale_daemon import instructed, run, sent
from upscaled_cli import exits
from upscaled_cli.upscale import main
from upscaled_imaging.dimensions import plan_size
from upscaled_protocol.choices import DEFAULT_DPI
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import JobError
from upscaled_protocol.messages import Size


def test_the_options_become_the_config_that_the_protocol_knows(
    daemon: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    options = (
        "a.jpg -o b.tiff --factor 2.5 --model compact-x4 --pre-model compact-x2 --dpi 300 "
        "--width-inches 8 --height-inches 10.5 --crop top-left --format tiff --quality 90 "
        "--tile-size 256 --config face_strength=0.3 --config upscale_model=RealESRGAN_x4plus"
    )
    assert sent(daemon, *options.split(), capsys=capsys) == [
        {
            "image_path": str(tmp_path / "a.jpg"),
            "output_path": str(tmp_path / "b.tiff"),
            "upscale_factor": 2.5,
            "model": "compact-x4",
            "pre_model": "compact-x2",
            "target_dpi": 300,
            "target_width_inches": 8.0,
            "target_height_inches": 10.5,
            "crop": "top-left",
            "output_format": "tiff",
            "quality": 90,
            "tile_size": 256,
            "face_strength": 0.3,
            "upscale_model": "RealESRGAN_x4plus",
        }
    ]
    configs = sent(daemon, "a.jpg", "--width", "800", "--height", "600", capsys=capsys)
    assert (configs[0]["target_width"], configs[0]["target_height"]) == (800, 600)


def test_what_is_not_asked_for_is_left_to_the_daemon(daemon: list[str], capsys: Any) -> None:
    assert sent(daemon, "/in/a.jpg", capsys=capsys) == [{"image_path": "/in/a.jpg"}]


def test_a_factor_for_imagen_is_written_its_way(daemon: list[str], capsys: Any) -> None:
    configs = sent(daemon, "a.jpg", "--method", "imagen", "--factor", "2", capsys=capsys)
    assert configs[0]["upscale_factor"] == "x2"


@pytest.mark.parametrize(
    ("options", "remark"),
    [
        ("--factor 2 --width-inches 8", "--factor has no effect beside --width-inches"),
        ("-s 2 --width 8 --height 9", "--factor has no effect beside --width 8 and --height 9"),
        ("--factor 2 --paper a4", "--factor has no effect beside --paper A4\n"),
        ("--quality 90", "--quality has no effect on png"),
        ("--quality 90 --format tiff", "--quality has no effect on tiff"),
        ("-o b.jpg --format png", "b.jpg will hold png, as --format says, not jpeg"),
        ("--method imagen --tile-size 512", "--tile-size has no effect on imagen"),
        (
            "--model compact-x4 --config upscale_model=compact-x2",
            "--config upscale_model has no effect",
        ),
        ("-o b.jpg --quality 90", None),
        ("-o b.tif --format tiff --dpi 300", None),
        ("--method imagen --factor 2 --width 800", None),
        ("--method imagen --tile-size 512 --config tile=true", None),
        ("--crop none", None),
    ],
)
def test_an_option_without_effect_is_reported_and_the_picture_made(
    daemon: list[str], options: str, remark: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(daemon, "a.jpg", *options.split()) == exits.OK
    error = capsys.readouterr().err
    assert error.startswith(f"upscaled upscale: {remark}") if remark else error == ""


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("", "a picture's name is empty"),
        ("ftp://host/a.png", "nothing is fetched by ftp://; give a path, or a URL of https://"),
        ("file:///home/a.png", "nothing is fetched by file://; give a path"),
    ],
)
def test_what_can_be_no_picture_is_wrong_usage(given: str, sentence: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as refused:
        main([given], [])
    assert refused.value.code == exits.USAGE
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--quality 900", "error: --quality 900: Input should be less than or equal to 100"),
        ("--crop middle", "argument --crop: invalid choice: 'middle'"),
        ("--paper A9", "argument --paper: invalid choice: 'A9' (choose from 'A0', 'A1'"),
        ("--height-cm -2 --width-cm 3", "error: --height-cm -2 is no length"),
        ("--width-inches -2", "error: --width-inches -2: Input should be greater than 0"),
        ("--method flux --config denoise=2", "error: --config denoise: Input should be less"),
        ("--config faces=yes", "error: --config faces: Input should be true or false"),
        ("--config tile=12", 'error: config has no field "tile"; did you mean "--tile-size"?'),
        ("--width 8 --height-cm 2", "--width 8 and --height-cm 2 exclude each other"),
        ("--paper letter --width-cm 2", "--width-cm 2 and --paper letter both give the width"),
    ],
)
def test_a_wrong_value_is_reported_by_its_option(
    options: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["a.jpg", *options.split()], [])
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("-o x.gif", ".gif is not written here: use .png, .tif, .jpg, .webp or .avif, or give"),
        ("-o s3://bucket/x.bmp", ".bmp is not written here"),
        ("--config output_path=/out/x.heic", ".heic is not written here"),
        ("--model compact-x5", "no model is called compact-x5: did you mean compact-x"),
        ("--pre-model /absent/1x.pth", "there is no weights file at /absent/1x.pth"),
        ("--method flux --config upscale_model=none", "no model is called none"),
        ("--config faces=true --config face_model=none", "no model is called none"),
    ],
)
def test_a_format_or_a_model_that_does_not_exist_is_wrong_usage(
    options: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["a.jpg", *options.split()], [])
    assert refused.value.code == exits.USAGE
    assert sentence in capsys.readouterr().err


def test_a_known_model_a_file_and_a_model_of_the_cloud_are_left_to_the_daemon(
    daemon: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "upscale_models" / "4x_mine.pth"
    own.parent.mkdir()
    own.touch()
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path))
    for options in (
        ["--model", "RealESRGAN_x4plus"],  # it is not pulled, which the daemon says
        ["--model", "4x_mine"],
        ["--model", str(own)],
        ["--method", "imagen", "--model", "imagen-of-tomorrow"],
        ["-o", "x.gif", "--format", "png"],
        ["-o", f"{tmp_path}/"],
    ):
        assert run(daemon, "a.jpg", *options) == exits.OK


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--width-inches 18 --height-inches 24.5", "--width-inches 18 and --height-inches 24.5"),
        ("--paper a3 --landscape", "--paper A3"),
        ("--width-cm 80", "--width-cm 80"),
    ],
)
def test_the_daemon_errors_about_a_size_name_the_options_too(
    daemon: list[str], options: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (asked,) = sent(daemon, "a.jpg", *options.split(), capsys=capsys)
    config, size = EsrganConfig(**asked), Size(width=20, height=20)
    with pytest.raises(JobError) as refused:
        plan_size(config, size, factor=4, default_dpi=300)
    sentence = refused.value.message
    assert run(instructed(daemon, fail=sentence), "a.jpg", *options.split()) == exits.FAILED
    error = capsys.readouterr().err
    assert error.startswith(f"a.jpg: {told}")
    assert "target_" not in error


def test_an_output_that_is_the_input_is_told_by_its_option(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fail = "the output /in/a.jpg is the input itself: give another output_path"
    assert run(instructed(daemon, fail=fail), "/in/a.jpg", "-o", "/in/a.jpg") == exits.FAILED
    assert capsys.readouterr().err.endswith("is the input itself: give another -o\n")


@pytest.mark.parametrize(
    ("options", "width", "height"),
    [
        ("--paper A4 --dpi 300", 2480, 3508),
        ("--paper a4 --dpi 300 --landscape", 3508, 2480),
        ("--paper A4", 1240, 1754),
        ("--paper Letter --dpi 300", 2550, 3300),
        ("--paper tabloid --dpi 300 --landscape", 5100, 3300),
        ("--width-cm 10 --height-inches 8 --dpi 254", 1000, 2032),
        # As binary fractions, 4.02 and 6.06 times 150 are a little less than these.
        ("--width-inches 4.02 --height-inches 6.06 --dpi 150", 603, 909),
    ],
)
def test_a_print_gets_the_pixels_that_a_print_shop_expects(
    daemon: list[str], options: str, width: int, height: int, capsys: Any
) -> None:
    (asked,) = sent(daemon, "a.jpg", *options.split(), "--crop", "center", capsys=capsys)
    plan = plan_size(
        EsrganConfig(**asked), Size(width=1000, height=900), factor=4, default_dpi=DEFAULT_DPI
    )
    assert plan.output == Size(width=width, height=height)


@pytest.mark.parametrize(
    ("options", "dpi"),
    [
        (
            "--paper A4 --landscape --crop center",
            54,
        ),  # 448 px of height, which is enlarged more, on 21 cm
        ("--width-inches 10", 64),
        ("--width 2560", None),
    ],
)
def test_a_print_shows_its_effective_resolution(
    daemon: list[str], options: str, dpi: int | None, capsys: Any
) -> None:
    assert run(daemon, "a.jpg", *options.split()) == exits.OK
    told = capsys.readouterr().out.splitlines()[1:]
    line = f"  effective resolution {dpi} dpi: the input's pixels per inch"
    assert told == ([line] if dpi else [])


@pytest.mark.parametrize(
    ("size", "landscape", "told"),
    [
        ((640, 448), False, "wider than high, and the paper is not: add --landscape"),
        ((448, 640), True, "higher than wide, and the paper is not: leave out --landscape"),
        ((448, 640), False, None),
        ((640, 448), True, None),
        ((410, 400), False, None),
    ],
)
def test_a_paper_that_lies_the_other_way_than_the_picture_is_pointed_out(
    daemon: list[str], capsys: Any, size: tuple[int, int], landscape: bool, told: str | None
) -> None:
    more = {"input_size": {"width": size[0], "height": size[1]}}
    paper = ["--paper", "A4", "--crop", "center", *(["--landscape"] if landscape else [])]
    run(instructed(daemon, more=more), "a.jpg", "-o", "b.png", *paper)
    lines = [line for line in capsys.readouterr().out.splitlines() if "the paper" in line]
    assert lines == ([f"  the picture is {told}"] if told else [])


def test_the_options_of_realesrgan_ncnn_vulkan_are_accepted(daemon: list[str], capsys: Any) -> None:
    typed = "-i /in/a.jpg -o /out/b.jpg -s 2 -n realesrgan-x4plus -t 200 -f jpg"
    assert sent(daemon, *typed.split(), capsys=capsys) == [
        {
            "image_path": "/in/a.jpg",
            "output_path": "/out/b.jpg",
            "upscale_factor": 2.0,
            "model": "realesrgan-x4plus",
            "tile_size": 200,
            "output_format": "jpeg",
        }
    ]
    (asked,) = sent(daemon, "-t", "0", "/in/a.jpg", "-f", "TIF", capsys=capsys)
    assert asked == {"image_path": "/in/a.jpg", "output_format": "tiff"}


def test_the_model_that_auto_chose_is_shown_with_the_reason(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"model": "compact-x4-clean", "model_reason": "the picture has noise of about 8 levels"}
    run(instructed(daemon, more=more), "a.jpg", "-o", "b.png", "--model", "auto")
    out = capsys.readouterr().out
    assert "  compact-x4-clean: the picture has noise of about 8 levels\n" in out
    run(instructed(daemon, more={"model": "compact-x4"}), "a.jpg", "-o", "b.png")
    assert "because" not in capsys.readouterr().out


def test_the_faces_are_counted_with_the_reasons_of_those_that_were_not_restored(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    faces = [{"restored": why is None, "why": why} for why in (None, "too small", "too small")]
    for found, line in (
        (faces, "  faces: 3 found, 1 restored, 2 too small\n"),
        ([], "  faces: 0 found, 0 restored\n"),
    ):
        run(instructed(daemon, more={"faces": found}), "a.jpg", "-o", "b.png")
        assert line in capsys.readouterr().out


def test_a_crop_that_was_not_requested_is_pointed_out(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = {
        "crop_info": {"direction": "vertical", "amount_px": 150, "amount_inches": 0.5},
        "warnings": ["a warning of the engine"],
    }
    run(instructed(daemon, more=more), "a.jpg", "-o", "b.png")
    out = capsys.readouterr().out
    assert "the picture is 150 px (0.50 in) taller than the target; --crop center cuts it" in out
    assert "a warning of the engine" in out
    size = ("--width", "8", "--height", "9")
    crop = ("--crop", "top", *size)
    run(instructed(daemon, more=more), "a.jpg", "-o", "b.png", *crop)
    assert "than the target" not in capsys.readouterr().out
