"""Numbers of pixels in XMP and EXIF follow the new picture, or a warning names them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from counting import SearchedBytes
from recording import RecordingContext
from upscaled_imaging.exifpixels import places_in_exif, scaled_exif
from upscaled_imaging.tags import Tag, TagType, header, long, pack, rational, short
from upscaled_imaging.xmp import places_in_xmp, scaled_xmp
from upscaled_protocol.messages import Size

Upscale = Callable[..., str]
PIXELS = np.random.default_rng(3).integers(0, 256, (8, 12, 3), dtype=np.uint8)
GPANO = 'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"'
EXIF = 'xmlns:exif="http://ns.adobe.com/exif/1.0/"'
DRONE = 'xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/"'
MWG = (
    'xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/" '
    'xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#"'
)
IPTC = 'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
PANORAMA = (
    f'<rdf:Description {GPANO} GPano:FullPanoWidthPixels="24" GPano:FullPanoHeightPixels="12" '
    'GPano:CroppedAreaImageWidthPixels="12" GPano:CroppedAreaImageHeightPixels="8" '
    'GPano:CroppedAreaLeftPixels="6" GPano:InitialViewHeadingDegrees="90">'
    "<GPano:CroppedAreaTopPixels>3</GPano:CroppedAreaTopPixels></rdf:Description>"
)


def scaled(xmp: str) -> tuple[str, list[str]]:
    """The packet, scaled by 2 across and 3 down."""
    found, left = scaled_xmp(xmp.encode(), (2.0, 3.0))
    return found.decode(), left


@pytest.mark.parametrize(
    ("space", "before", "after"),
    [
        (GPANO, '<a GPano:CroppedAreaLeftPixels="5"/>', '<a GPano:CroppedAreaLeftPixels="10"/>'),
        (GPANO, "<a GPano:FullPanoHeightPixels = '5'/>", "<a GPano:FullPanoHeightPixels = '15'/>"),
        (
            GPANO,
            "<GPano:CroppedAreaTopPixels> 5 </GPano:CroppedAreaTopPixels>",
            "<GPano:CroppedAreaTopPixels> 15 </GPano:CroppedAreaTopPixels>",
        ),
        (GPANO, '<a GPano:InitialViewPitchDegrees="5"/>', '<a GPano:InitialViewPitchDegrees="5"/>'),
        (
            GPANO.replace(":GPano", ":p"),
            '<a p:FullPanoWidthPixels="5" GPano:FullPanoWidthPixels="5"/>',
            '<a p:FullPanoWidthPixels="10" GPano:FullPanoWidthPixels="5"/>',
        ),
        (
            DRONE,
            '<a drone-dji:CalibratedOpticalCenterY="-2.25"/>',
            '<a drone-dji:CalibratedOpticalCenterY="-6.750000"/>',
        ),
        (
            EXIF,
            '<a exif:FocalPlaneXResolution="5000/2"/>',
            '<a exif:FocalPlaneXResolution="50000000/10000"/>',
        ),
        (
            EXIF,
            (
                "<exif:SubjectArea><rdf:Seq><rdf:li>1</rdf:li> <rdf:li>2</rdf:li><rdf:li>3</rdf:li>"
                "</rdf:Seq></exif:SubjectArea><rdf:li>4</rdf:li>"
            ),
            (
                "<exif:SubjectArea><rdf:Seq><rdf:li>2</rdf:li> <rdf:li>6</rdf:li><rdf:li>6</rdf:li>"
                "</rdf:Seq></exif:SubjectArea><rdf:li>4</rdf:li>"
            ),
        ),
        (
            MWG,
            (
                '<mwg-rs:AppliedToDimensions stDim:w="5" stDim:h="5" stDim:unit="pixel"/>'
                '<a stDim:w="5"/>'
            ),
            (
                '<mwg-rs:AppliedToDimensions stDim:w="10" stDim:h="15" stDim:unit="pixel"/>'
                '<a stDim:w="5"/>'
            ),
        ),
        (
            MWG,
            (
                "<mwg-rs:AppliedToDimensions><stDim:w>5</stDim:w><stDim:unit>pixel</stDim:unit>"
                "</mwg-rs:AppliedToDimensions>"
            ),
            (
                "<mwg-rs:AppliedToDimensions><stDim:w>10</stDim:w><stDim:unit>pixel</stDim:unit>"
                "</mwg-rs:AppliedToDimensions>"
            ),
        ),
        (
            IPTC,
            (
                '<Iptc4xmpExt:RegionBoundary Iptc4xmpExt:rbUnit="pixel" Iptc4xmpExt:rbX="5"/>'
                '<Iptc4xmpExt:RegionBoundary Iptc4xmpExt:rbUnit="relative" Iptc4xmpExt:rbX="0.5"/>'
            ),
            (
                '<Iptc4xmpExt:RegionBoundary Iptc4xmpExt:rbUnit="pixel" Iptc4xmpExt:rbX="10"/>'
                '<Iptc4xmpExt:RegionBoundary Iptc4xmpExt:rbUnit="relative" Iptc4xmpExt:rbX="0.5"/>'
            ),
        ),
    ],
)
def test_a_number_of_pixels_follows_the_picture(space: str, before: str, after: str) -> None:
    assert scaled(f"<x {space}>{before}</x>") == (f"<x {space}>{after}</x>", [])


@pytest.mark.parametrize(
    ("space", "content", "name"),
    [
        (GPANO, '<a GPano:FullPanoWidthPixels="wide"/>', "GPano:FullPanoWidthPixels"),
        (GPANO, f'<a GPano:FullPanoWidthPixels="{"9" * 5000}"/>', "GPano:FullPanoWidthPixels"),
        (EXIF, '<a exif:FocalPlaneXResolution="1/0"/>', "exif:FocalPlaneXResolution"),
        (EXIF, "<exif:SubjectArea>1, 2</exif:SubjectArea>", "exif:SubjectArea"),
        (EXIF, "<exif:SubjectLocation><rdf:li>1</rdf:li>", "exif:SubjectLocation"),
        (DRONE, '<a drone-dji:DewarpData="2020-01-01;3666.6,3666.6"/>', "drone-dji:DewarpData"),
    ],
)
def test_numbers_that_cannot_be_scaled_are_named(space: str, content: str, name: str) -> None:
    xmp = f"<x {space}>{content}</x>"
    assert scaled(xmp) == (xmp, [name])


@given(st.lists(st.sampled_from([
    *(f"<x {space}>" for space in (GPANO, EXIF, MWG, IPTC)), "<", ">", "/", "=", '"', "1", ".", " ",
    "GPano:FullPanoWidthPixels", "exif:SubjectArea", "mwg-rs:AppliedToDimensions", "stDim:w",
    "pixel", "Iptc4xmpExt:RegionBoundary", "Iptc4xmpExt:rbX", "<rdf:li>", "xmlns:GPano=",
]), max_size=60))  # fmt: skip
def test_any_xmp_is_searched_a_bounded_number_of_times(pieces: list[str]) -> None:
    xmp = SearchedBytes("".join(pieces).encode())
    found, _ = scaled_xmp(xmp, (2.0, 2.0))
    assert len(found) <= 3 * len(xmp)
    places_in_xmp(xmp)
    assert xmp.searched <= 60 * (len(xmp) + 60)


def block(*inner: Tag) -> bytes:
    return header(8, big=False) + pack([Tag(34665, TagType.LONG, list(inner))], 8)


def inner_tags(exif: bytes) -> dict[int, Any]:
    read = Image.Exif()
    read.load(b"Exif\0\0" + exif)
    inner = dict(read.get_ifd(ExifTags.IFD.Exif))
    return inner | (
        dict(read.get_ifd(ExifTags.IFD.Interop)) if ExifTags.IFD.Interop in inner else {}
    )


SUBJECT_AREA, SUBJECT_LOCATION, FOCAL_PLANE_X = 37396, 41492, 41486
RELATED_WIDTH, RELATED_HEIGHT = 4097, 4098


def test_an_exif_blocks_numbers_of_pixels_follow_the_picture() -> None:
    related = Tag(40965, TagType.LONG, [short(RELATED_WIDTH, 12), long(RELATED_HEIGHT, 8)])
    exif = block(
        short(SUBJECT_AREA, 6, 4, 2, 1), short(SUBJECT_LOCATION, 6, 4),
        rational(FOCAL_PLANE_X, 4000.5), related,
    )  # fmt: skip
    assert places_in_exif(exif) == ["SubjectArea", "SubjectLocation"]
    revised = scaled_exif(exif, Size(width=12, height=8), Size(width=24, height=24))
    assert len(revised) == len(exif)
    found = inner_tags(revised)
    assert found[SUBJECT_AREA] == (12, 12, 4, 3)
    assert found[SUBJECT_LOCATION] == (12, 12)
    assert found[FOCAL_PLANE_X] == 8001
    assert (found[RELATED_WIDTH], found[RELATED_HEIGHT]) == (24, 24)


def test_positions_above_16_bits_are_stored_with_32() -> None:
    exif = block(short(SUBJECT_AREA, 40_000, 3, 2), short(SUBJECT_LOCATION, 40_000, 3))
    sizes = (Size(width=50_000, height=4), Size(width=100_000, height=8))
    found = inner_tags(scaled_exif(exif, *sizes))
    assert found[SUBJECT_AREA] == (80_000, 6, 4)
    assert found[SUBJECT_LOCATION] == (80_000, 6)


def test_the_size_of_another_file_is_not_scaled() -> None:
    related = Tag(40965, TagType.LONG, [short(RELATED_WIDTH, 4000), short(RELATED_HEIGHT, 3000)])
    exif = block(related)
    assert scaled_exif(exif, Size(width=160, height=120), Size(width=320, height=240)) == exif


@given(st.binary(max_size=200), st.integers(0, 100))
def test_broken_blocks_never_raise(noise: bytes, at: int) -> None:
    whole = block(short(SUBJECT_AREA, 60_000, 4, 2, 1), rational(FOCAL_PLANE_X, 4000.5))
    for exif in (noise, whole[:at] + noise[:4] + whole[at + 4 :], whole[:at]):
        found = scaled_exif(exif, Size(width=12, height=8), Size(width=24, height=24))
        assert len(found) < len(exif) + 100
        places_in_exif(exif)


def panorama(path: Path, orientation: int = 1) -> str:
    exif = Image.Exif()
    exif[274] = orientation
    exif.get_ifd(ExifTags.IFD.Exif)[SUBJECT_LOCATION] = (6, 4)
    Image.fromarray(PIXELS).save(path, xmp=PANORAMA.encode(), exif=exif, quality=95)
    return str(path)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
def test_an_enlarged_panorama_is_still_a_panorama(
    tmp_path: Path, upscale: Upscale, context: RecordingContext, kind: str
) -> None:
    out = tmp_path / f"out.{kind}"
    upscale(image_path=panorama(tmp_path / "in.jpg"), output_path=str(out), upscale_factor=2)
    data = out.read_bytes()
    width = Image.open(io.BytesIO(data)).width
    assert width == 24
    exif = Image.open(io.BytesIO(data)).getexif()
    assert exif.get_ifd(ExifTags.IFD.Exif)[SUBJECT_LOCATION] == (12, 8)
    assert f'GPano:CroppedAreaImageWidthPixels="{width}"'.encode() in data
    assert b'GPano:FullPanoWidthPixels="48"' in data
    assert b'GPano:CroppedAreaLeftPixels="12"' in data
    assert b'GPano:InitialViewHeadingDegrees="90"' in data
    assert b"<GPano:CroppedAreaTopPixels>6<" in data
    assert context.warnings == []


@pytest.mark.parametrize("change", ["turned", "cropped"])
def test_positions_in_a_picture_that_was_turned_or_cropped_are_named(
    tmp_path: Path, upscale: Upscale, context: RecordingContext, change: str
) -> None:
    path = panorama(tmp_path / "in.jpg", orientation=6 if change == "turned" else 1)
    target = {"target_width": 20, "target_height": 16, "crop": "center"}
    fields = {"upscale_factor": 2} if change == "turned" else target
    upscale(image_path=path, output_path=str(tmp_path / "out.png"), **fields)
    warning = next(one for one in context.warnings if "cropped or turned" in one)
    assert "GPano:CroppedAreaLeftPixels" in warning
    assert "SubjectLocation" in warning
