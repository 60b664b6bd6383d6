"""The resolution of a file: in any unit, and none if the file has none."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from PIL import Image, TiffImagePlugin

from heif_files import box, coded, heif

Opener = Callable[..., Any]
Upscale = Callable[..., str]
PICTURE = Image.new("RGB", (30, 20), (90, 120, 30))


def dpi_of(opened: Opener, path: Path) -> float | None:
    with opened(image_path=path) as source:
        dpi: float | None = source.metadata.dpi
        return dpi


def with_density(path: Path, unit: int, across: int, down: int) -> Path:
    """A JPEG with this JFIF header."""
    PICTURE.save(path)
    data = bytearray(path.read_bytes())
    struct.pack_into(">BHH", data, data.index(b"JFIF\0") + 7, unit, across, down)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("unit", "dots", "dpi"), [(0, 1, None), (0, 300, None), (1, 300, 300), (2, 100, 254)]
)
def test_a_jpeg_has_dots_per_inch_or_per_centimetre_or_none(
    tmp_path: Path, opened: Opener, unit: int, dots: int, dpi: float | None
) -> None:
    assert dpi_of(opened, with_density(tmp_path / "in.jpg", unit, dots, dots)) == dpi


@pytest.mark.parametrize(
    ("unit", "dpi"), [(None, 100), (1, None), (2, 100), (3, 254)], ids=["", "none", "inch", "cm"]
)
def test_a_tiff_has_dots_per_inch_or_per_centimetre_or_none(
    tmp_path: Path, opened: Opener, unit: int | None, dpi: float | None
) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[282] = tags[283] = 100
    if unit is not None:
        tags[296] = unit
    PICTURE.save(tmp_path / "in.tif", tiffinfo=tags)
    assert dpi_of(opened, tmp_path / "in.tif") == (dpi and pytest.approx(dpi))


# libvips reports 25.4 for files without a resolution.
@pytest.mark.parametrize("dpi", [25.4, 72, 299.9994])
def test_a_png_has_dots_per_metre(tmp_path: Path, opened: Opener, dpi: float) -> None:
    PICTURE.save(tmp_path / "in.png", dpi=(dpi, dpi))
    assert dpi_of(opened, tmp_path / "in.png") == pytest.approx(dpi, abs=0.02)
    PICTURE.save(tmp_path / "bare.png")
    assert dpi_of(opened, tmp_path / "bare.png") is None


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif"])
def test_exif_has_a_resolution_too(tmp_path: Path, opened: Opener, suffix: str) -> None:
    exif = Image.Exif()
    exif[282] = exif[283] = 240
    exif[296] = 2
    PICTURE.save(tmp_path / f"in.{suffix}", exif=exif)
    assert dpi_of(opened, tmp_path / f"in.{suffix}") == 240


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_pixels_that_are_not_square_get_a_warning(
    tmp_path: Path, opened: Opener, context: Any, suffix: str
) -> None:
    PICTURE.save(tmp_path / f"fax.{suffix}", dpi=(204, 98))
    assert dpi_of(opened, tmp_path / f"fax.{suffix}") is None
    assert ["not square" in warning for warning in context.warnings] == [True]


@pytest.mark.parametrize(
    ("across", "down", "warns"), [(12, 11, True), (7, 7, False), (0, 5, False)]
)
@pytest.mark.parametrize("suffix", ["png", "jpg", "avif"])
def test_a_ratio_of_pixels_that_are_not_square_gets_a_warning(
    tmp_path: Path,
    opened: Opener,
    context: Any,
    suffix: str,
    across: int,
    down: int,
    warns: bool,
) -> None:
    path = tmp_path / f"in.{suffix}"
    if suffix == "jpg":
        with_density(path, 0, across, down)
    elif suffix == "png":
        PICTURE.save(path, dpi=(100, 100))
        data = path.read_bytes()
        at = data.index(b"pHYs")
        chunk = b"pHYs" + struct.pack(">IIB", across, down, 0)
        path.write_bytes(data[:at] + chunk + struct.pack(">I", crc32(chunk)) + data[at + 17 :])
    else:
        PICTURE.save(path)
        item = coded(path.read_bytes())
        ratio = box(b"pasp", struct.pack(">II", down, across))
        item = item._replace(kind=b"av01", properties=(*item.properties, ratio))
        path.write_bytes(heif([item], brand=b"avif"))
    assert dpi_of(opened, path) is None
    assert ["not square" in warning for warning in context.warnings] == [True] * warns


@pytest.mark.parametrize("dpi", [72.5, 300, 99_999])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp", "avif"])
def test_any_resolution_is_kept_in_any_format(
    tmp_path: Path, opened: Opener, upscale: Upscale, suffix: str, dpi: float
) -> None:
    PICTURE.save(tmp_path / "in.tif", dpi=(dpi, dpi))
    path = upscale(image_path=str(tmp_path / "in.tif"), output_path=str(tmp_path / f"out.{suffix}"))
    assert dpi_of(opened, Path(path)) == pytest.approx(dpi, abs=0.02)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp", "avif"])
def test_no_resolution_is_invented(
    tmp_path: Path, opened: Opener, upscale: Upscale, suffix: str
) -> None:
    PICTURE.save(tmp_path / "in.png")
    output = Path(
        upscale(image_path=str(tmp_path / "in.png"), output_path=str(tmp_path / f"out.{suffix}"))
    )
    assert dpi_of(opened, output) is None
    with Image.open(output) as written:
        assert suffix == "tif" or not written.getexif()
        assert written.info.get("dpi", (1, 1)) == (1, 1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif"])
@pytest.mark.parametrize("ratio", [{}, {282: 1.0, 283: 1.0, 296: 1}, {282: 0.0, 283: 0.0}])
def test_exif_without_a_resolution_gets_none(
    tmp_path: Path, upscale: Upscale, ratio: dict[int, float], suffix: str
) -> None:
    exif = Image.Exif()
    for number, value in ({271: "maker"} | ratio).items():
        exif[number] = value
    PICTURE.save(tmp_path / "in.png", exif=exif)
    path = upscale(image_path=str(tmp_path / "in.png"), output_path=str(tmp_path / f"out.{suffix}"))
    with Image.open(path) as written:
        assert dict(written.getexif()) == {271: "maker"} | ratio
