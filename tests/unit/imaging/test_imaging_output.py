"""The destination and the format of an output, decided before any work is done."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image

from recording import RecordingContext
from sinks import write_file
from upscaled_imaging.destinations import Base64Destination, FileDestination
from upscaled_imaging.dimensions import plan_size
from upscaled_imaging.output import Output, plan_output
from upscaled_imaging.read import open_source
from upscaled_imaging.settings import Access, Limits, PictureSettings
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

Planner = Callable[..., Output]
IMAGE_DESCRIPTION, ARTIST = 270, 315


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "holiday.photo.jpg"
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path, dpi=(240, 240))
    return path


@pytest.fixture
def planned(settings: PictureSettings, context: Any, picture: Path) -> Planner:
    def plan(factor: float = 4, changed: PictureSettings | None = None, **fields: Any) -> Output:
        changed = changed or settings
        if "image_base64" not in fields:
            fields = {"image_path": str(picture)} | fields
        config = EsrganConfig(**fields)
        with open_source(config, settings, context) as source:
            size = Size(width=source.width, height=source.height)
            sizes = plan_size(config, size, factor=factor, default_dpi=150)
            return plan_output(config, changed, source, sizes, method="esrgan", context=context)

    return plan


def path_of(output: Output) -> Path:
    assert isinstance(output.destination, FileDestination)
    return output.destination.path


def refused(planned: Planner, **fields: Any) -> JobError:
    with pytest.raises(JobError) as caught:
        planned(**fields)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "holiday.photo_esrgan_4x.png"),
        ({"factor": 2.5}, "holiday.photo_esrgan_2.5x.png"),
        ({"target_width": 100}, "holiday.photo_esrgan_2.5x.png"),
        ({"target_width": 137}, "holiday.photo_esrgan_3.42x.png"),
        ({"output_format": "jpeg"}, "holiday.photo_esrgan_4x.jpg"),
        ({"output_format": "tiff"}, "holiday.photo_esrgan_4x.tif"),
    ],
)
def test_the_default_name_has_method_and_factor(
    planned: Planner, picture: Path, fields: dict[str, Any], name: str
) -> None:
    assert path_of(planned(**fields)) == picture.parent / name


def test_a_default_name_never_replaces_a_file_and_a_given_path_does(
    upscale: Callable[..., str], picture: Path, tmp_path: Path
) -> None:
    default = tmp_path / "holiday.photo_esrgan_2x.png"
    default.write_text("another job's")
    assert upscale(image_path=str(picture)) == str(tmp_path / "holiday.photo_esrgan_2x-2.png")
    assert upscale(image_path=str(picture)) == str(tmp_path / "holiday.photo_esrgan_2x-3.png")
    assert default.read_text() == "another job's"
    assert upscale(image_path=str(picture), output_path=str(default)) == str(default)
    assert default.read_bytes().startswith(b"\x89PNG")


def test_a_job_that_is_run_again_has_one_output(
    upscale: Callable[..., str], context: RecordingContext, picture: Path, tmp_path: Path
) -> None:
    context.accepted_as = "1"
    first = upscale(image_path=str(picture))
    assert upscale(image_path=str(picture)) == first
    context.accepted_as = "2"
    assert upscale(image_path=str(picture)) != first
    assert len(list(tmp_path.glob("*_esrgan_*"))) == 2


def test_a_folder_or_a_link_of_the_default_name_is_left_alone(
    upscale: Callable[..., str], picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "holiday.photo_esrgan_2x.png").symlink_to(picture)
    (tmp_path / "holiday.photo_esrgan_2x-2.png").mkdir()
    assert upscale(image_path=str(picture)) == str(tmp_path / "holiday.photo_esrgan_2x-3.png")


def test_the_longest_input_name_still_makes_a_name(planned: Planner, tmp_path: Path) -> None:
    picture = tmp_path / f"{'é' * 125}.png"
    Image.new("RGB", (4, 3)).save(picture)
    output = planned(image_path=str(picture))
    assert path_of(output) == tmp_path / f"{'é' * 120}_esrgan_4x.png"


def test_a_target_smaller_than_the_input_gets_a_warning(
    planned: Planner, context: RecordingContext
) -> None:
    planned(target_width=40)
    assert context.warnings == []
    planned(target_width=20)
    assert context.warnings == [
        "the target is smaller than the input (40x30): the picture was made smaller, to 20x15"
    ]


@pytest.mark.parametrize(
    ("size", "target", "is_told"),
    [
        ((20, 400), (72, 1200), True),  # 0.05 and 0.06
        ((1, 60), (1, 100), False),  # 60 % by rounding alone
        ((200, 300), (606, 900), False),  # 0.667 and 0.673
        ((40, 30), (80, 60), False),
    ],
)
def test_a_narrow_picture_that_is_stretched_gets_a_warning(
    planned: Planner,
    context: RecordingContext,
    picture: Path,
    size: tuple[int, int],
    target: tuple[int, int],
    is_told: bool,
) -> None:
    Image.new("RGB", size).save(picture)
    output = planned(target_width=target[0], target_height=target[1])
    assert (output.plan.output.width, output.plan.output.height) == target
    told = (
        "the target's shape is another one than the input's: the picture was stretched by 20%, "
        "because width / height differ by less than 0.01"
    )
    assert context.warnings == ([told] if is_told else [])


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("png", []),
        ("tiff", []),
        ("avif", []),
        (
            "jpeg",
            [
                "JPEG has no transparency: the picture was laid on white",
                "JPEG has 8 bits per channel: the input's were reduced to that",
            ],
        ),
        ("webp", ["WebP has 8 bits per channel: the input's were reduced to that"]),
    ],
)
def test_what_a_format_cannot_keep_of_the_pixels_is_told(
    planned: Planner, context: RecordingContext, tmp_path: Path, kind: str, told: list[str]
) -> None:
    deep = pyvips.Image.black(4, 3, bands=4).cast("ushort").copy(interpretation="rgb16")
    deep.write_to_file(tmp_path / "deep.png")
    planned(image_path=str(tmp_path / "deep.png"), output_format=kind)
    assert context.warnings == told


def test_the_output_folder_is_made(planned: Planner, tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    output = planned(changed=PictureSettings(access=Access(output_dir=folder)))
    assert path_of(output) == folder / "holiday.photo_esrgan_4x.png"
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", "png"),
        ("a.TIF", "tiff"),
        ("a.tiff", "tiff"),
        ("a.jpg", "jpeg"),
        ("a.JPEG", "jpeg"),
        ("a.webp", "webp"),
        ("a.avif", "avif"),
        ("a", "png"),
    ],
)
def test_the_suffix_decides_the_format(
    planned: Planner, tmp_path: Path, name: str, kind: str
) -> None:
    output = planned(output_path=str(tmp_path / name))
    assert (path_of(output), output.format) == (tmp_path / name, kind)


def test_output_format_wins_over_the_suffix(planned: Planner, tmp_path: Path) -> None:
    assert planned(output_path=str(tmp_path / "a.png"), output_format="webp").format == "webp"
    assert planned(output_path=str(tmp_path / "a.bmp"), output_format="png").format == "png"


def test_an_unknown_suffix_is_refused(planned: Planner, tmp_path: Path) -> None:
    error = refused(planned, output_path=str(tmp_path / "a.bmp"))
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert ".bmp" in error.message


def test_the_input_is_never_the_output(planned: Planner, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "symbolic.jpg").symlink_to(picture)
    (tmp_path / "hard.jpg").hardlink_to(picture)
    for name in (picture.name, f"./{picture.name}", "symbolic.jpg", "hard.jpg"):
        error = refused(planned, output_path=str(tmp_path / name))
        assert error.code is ErrorCode.INVALID_JOB
        assert "input itself" in error.message


def test_a_missing_folder_is_named(planned: Planner, tmp_path: Path) -> None:
    error = refused(planned, output_path=str(tmp_path / "typo" / "a.png"))
    assert error.code is ErrorCode.OUTPUT_UNWRITABLE
    assert "typo" in error.message


def test_a_path_that_is_no_ordinary_file_is_not_replaced(planned: Planner, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("folder.png", "pipe.png"):
        error = refused(planned, output_path=str(tmp_path / name))
        assert error.code is ErrorCode.OUTPUT_UNWRITABLE


def test_a_name_that_no_file_can_have_is_one_plain_error(planned: Planner, tmp_path: Path) -> None:
    error = refused(planned, output_path=str(tmp_path / ("a" * 300 + ".png")))
    assert error.code is ErrorCode.OUTPUT_UNWRITABLE
    assert refused(planned, output_path="a\0b.png").code is ErrorCode.INVALID_JOB


def test_an_input_without_a_folder_needs_an_output(planned: Planner, picture: Path) -> None:
    import base64

    text = base64.b64encode(picture.read_bytes()).decode()
    assert refused(planned, image_base64=text).code is ErrorCode.INVALID_JOB
    assert planned(image_base64=text, output_base64=True).destination == Base64Destination()
    output = planned(
        image_base64=text, changed=PictureSettings(access=Access(output_dir=picture.parent))
    )
    assert path_of(output) == picture.parent / "job-1_esrgan_4x.png"


def test_roots_confine_outputs(planned: Planner, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "leads-out").symlink_to(outside)
    changed = PictureSettings(access=Access(roots=(root,)))
    (root / "circle").symlink_to(root / "circle")
    assert path_of(planned(changed=changed, output_path=str(root / "a.png"))) == root / "a.png"
    # OUTPUT_DIR is the operator's own, and needs no root.
    assert path_of(
        planned(changed=replace(changed, access=Access(roots=(root,), output_dir=outside)))
    )
    for path in ("leads-out/a.png", "circle/a.png", "../outside/a.png", "../nowhere/a.png"):
        error = refused(planned, changed=changed, output_path=str(root / path))
        assert error.code is ErrorCode.PATH_NOT_ALLOWED


def test_roots_confine_outputs_beside_an_input_that_a_link_outside_leads_to(
    planned: Planner, picture: Path, tmp_path: Path
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    link = outside / "link.jpg"
    link.symlink_to(picture.rename(root / "holiday.jpg"))
    error = refused(
        planned, changed=PictureSettings(access=Access(roots=(root,))), image_path=str(link)
    )
    assert error.code is ErrorCode.PATH_NOT_ALLOWED


def test_a_path_that_ends_in_a_slash_is_a_folder(planned: Planner, tmp_path: Path) -> None:
    error = refused(planned, output_path=f"{tmp_path}/new/")
    assert error.code is ErrorCode.OUTPUT_UNWRITABLE


LONGEST_SIDES = [("webp", 16_383), ("jpeg", 65_500), ("avif", 16_384)]


@pytest.mark.parametrize(("kind", "side"), LONGEST_SIDES)
@pytest.mark.parametrize("is_tall", [False, True])
def test_a_size_that_a_format_cannot_hold_is_refused_before_the_work(
    planned: Planner, tmp_path: Path, kind: str, side: int, is_tall: bool
) -> None:
    def strip(longest: int) -> str:
        path = tmp_path / f"{longest}.png"
        pixels = np.zeros((1, longest), np.uint8)
        Image.fromarray(pixels.T if is_tall else pixels).save(path)
        return str(path)

    error = refused(planned, factor=1, image_path=strip(side + 1), output_format=kind)
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert f"{side} pixels per side" in error.message
    assert "png or tiff" in error.message
    planned(factor=1, image_path=strip(side), output_format=kind)


@pytest.mark.parametrize(("kind", "side"), LONGEST_SIDES)
def test_the_limits_are_those_of_the_encoders(tmp_path: Path, kind: str, side: int) -> None:
    write_file(tmp_path / "longest", kind, np.zeros((1, side, 3), np.uint8))
    with pytest.raises(JobError, match=r"(?i)too large|maximum"):
        write_file(tmp_path / "longer", kind, np.zeros((1, side + 1, 3), np.uint8))


def test_the_output_has_a_limit_too(planned: Planner) -> None:
    error = refused(
        planned, factor=16, changed=PictureSettings(limits=Limits(max_output_megapixels=0.3))
    )
    assert error.code is ErrorCode.INPUT_TOO_LARGE
    assert "640x480" in error.message


def test_the_inputs_own_resolution_is_kept_unless_another_is_asked_for(planned: Planner) -> None:
    assert planned().metadata.dpi == pytest.approx(240)
    assert planned(target_dpi=300).metadata.dpi == 300
    assert planned(target_width_inches=1.0).metadata.dpi == 150


@pytest.mark.parametrize("kind", ["png", "webp", "avif", "jpeg"])
def test_an_exif_block_of_any_length_is_kept_but_in_a_jpeg(
    upscale: Callable[..., str], tmp_path: Path, context: RecordingContext, kind: str
) -> None:
    path, output = tmp_path / "in.webp", tmp_path / f"out.{kind}"
    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION], exif[ARTIST] = "d" * 200_000, "Ada"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    upscale(image_path=str(path), output_path=str(output))
    with Image.open(output) as picture:
        assert picture.getexif().get(ARTIST) == ("Ada" if kind != "jpeg" else None)
    told = "the EXIF block is too long for JPEG: it was left out"
    assert context.warnings == ([told] if kind == "jpeg" else [])


def test_metadata_too_long_for_jpeg_is_left_out_with_a_warning(
    planned: Planner, tmp_path: Path, context: Any
) -> None:
    path = tmp_path / "wordy.webp"
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b" " * 70_000 + b"</x:xmpmeta>"
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path, xmp=xmp)
    assert planned(image_path=str(path), output_format="jpeg").metadata.xmp is None
    assert context.warnings == ["the XMP packet is too long for JPEG: it was left out"]
    assert planned(image_path=str(path), output_format="png").metadata.xmp == xmp
