"""Files made by other programs go through; other programs say what came out."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips

from recording import RecordingContext
from upscaled_imaging.dimensions import plan_size
from upscaled_imaging.output import plan_output
from upscaled_imaging.read import open_source
from upscaled_imaging.write import open_sink
from upscaled_models.engine import Settings
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.messages import Size

TIMEOUT_S = 60
SUFFIXES = {"png": "png", "tiff": "tif", "jpeg": "jpg", "webp": "webp", "avif": "avif"}


def found(*names: str) -> str | None:
    """The first of the programs that is there; some systems have another `convert`."""
    for name in names:
        path = shutil.which(name)
        if path and (name != "convert" or b"ImageMagick" in run(path, "-version")):
            return path
    return None


def run(*argv: str | Path) -> bytes:
    done = subprocess.run(argv, capture_output=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


CONVERT = found("convert-im6.q16", "convert-im7.q16", "convert") or ""
IDENTIFY = found("identify-im6.q16", "identify-im7.q16", "identify") or ""
MISSING = [
    package
    for package, path in (
        ("imagemagick", CONVERT and IDENTIFY),
        ("libimage-exiftool-perl", shutil.which("exiftool")),
        ("libtiff-tools", shutil.which("tiffinfo")),
    )
    if not path
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def doubled(path: Path, output: Path, **fields: Any) -> list[str]:
    """Pass a file through an engine that shows each pixel four times; the warnings."""
    context = RecordingContext()
    settings = Settings(model_dir=output.parent)
    config = EsrganConfig(image_path=str(path), output_path=str(output), **fields)
    with open_source(config, settings, context) as source:
        size = Size(width=source.width, height=source.height)
        plan = plan_size(config, size, factor=2, default_dpi=150)
        planned = plan_output(config, settings, source, plan, method="esrgan", context=context)
        native = Size(width=2 * source.width, height=2 * source.height)
        with open_sink(planned, native, source.bands, source.bits) as sink:
            while source.rows_left:
                sink.write(source.rows(50).repeat(2, axis=0).repeat(2, axis=1))
            sink.commit()
    return context.warnings


def tags(*paths: Path) -> list[dict[str, Any]]:
    """What exiftool sees, by group and name, numbers as they are."""
    told = run("exiftool", "-j", "-n", "-G1", "-a", *paths)
    return list(json.loads(told))


def identified(path: Path, wanted: str) -> list[str]:
    return run(IDENTIFY, "-regard-warnings", "-format", wanted, path).decode().split("|")


def raw(path: Path, *operations: str) -> bytes:
    """The pixels as ImageMagick sees them: 16 bits each of red, green, blue and alpha."""
    return run(CONVERT, path, *operations, "-depth", "16", "RGBA:-")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fidelity")


@pytest.fixture(scope="module")
def pattern(folder: Path) -> Path:
    """A picture of ImageMagick's making, 16 bits deep."""
    path = folder / "pattern.png"
    run(CONVERT, "-size", "90x60", "-seed", "3", "plasma:tomato-steelblue", "-depth", "16", path)
    return path


def profile(folder: Path, name: str) -> Path:
    path = folder / f"{name}.icc"
    path.write_bytes(pyvips.Image.profile_load(name))
    return path


PHOTOGRAPHS = {
    "8.png": ["-depth", "8"],
    "16.png": ["-depth", "16"],
    "8.tif": ["-depth", "8", "-compress", "lzw"],
    "16.tif": ["-depth", "16", "-endian", "MSB"],
    "8.jpg": ["-quality", "95"],
    "8.webp": ["-quality", "95"],
}


@pytest.fixture(scope="module", params=PHOTOGRAPHS)
def photograph(request: pytest.FixtureRequest, folder: Path, pattern: Path) -> Path:
    """With everything that a photograph carries, lying on its side."""
    path = folder / f"photo{request.param}"
    p3 = profile(folder, "p3")
    run(CONVERT, pattern, "-profile", p3,
        *PHOTOGRAPHS[request.param], path)  # fmt: skip
    thumbnail = folder / "thumbnail.jpg"
    run(CONVERT, "-size", "16x9", "xc:lime", thumbnail)
    embed = [f"-ThumbnailImage<={thumbnail}"] if path.suffix in (".jpg", ".webp") else []
    run("exiftool", "-q", "-overwrite_original", "-n", *embed,
        "-IFD0:Orientation=6", "-IFD0:XResolution=240", "-IFD0:YResolution=240",
        "-IFD0:ResolutionUnit=2", "-IFD0:Make=Fabrikat", "-IFD0:Artist=Ada Öre",
        "-ExifIFD:DateTimeOriginal=2020:01:02 03:04:05", "-ExifIFD:ExposureTime=0.004",
        "-ExifIFD:LensModel=50mm", "-ExifIFD:ExifImageWidth=90", "-ExifIFD:ExifImageHeight=60",
        "-GPS:GPSLatitude=48.2", "-GPS:GPSLatitudeRef=N", "-XMP-dc:Title=Ein Titel",
        "-XMP-tiff:Orientation=6", path)  # fmt: skip
    return path


def test_a_photographs_metadata_survive_into_every_format(photograph: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"out.{suffix}" for suffix in SUFFIXES.values()]
    deep = photograph.name.startswith("photo16")
    for output in outputs:
        warnings = doubled(photograph, output, target_dpi=300)
        is_reduced = deep and output.suffix in (".jpg", ".webp")
        assert len(warnings) == is_reduced
        assert all("has 8 bits per channel" in text for text in warnings)
    before, *after = tags(photograph, *outputs)
    for output, told in zip(outputs, after, strict=True):
        context = (photograph.name, output.suffix)
        for name in (
            "IFD0:Make",
            "IFD0:Artist",
            "ExifIFD:DateTimeOriginal",
            "ExifIFD:ExposureTime",
            "ExifIFD:LensModel",
            "GPS:GPSLatitude",
            "GPS:GPSLatitudeRef",
            "XMP-dc:Title",
            "ICC_Profile:ProfileDescription",
        ):
            assert told[name] == before[name], (*context, name)
        assert "P3" in told["ICC_Profile:ProfileDescription"], context
        assert told.get("IFD0:Orientation", 1) == 1, context
        assert told["XMP-tiff:Orientation"] == 1, context
        assert (told["IFD0:XResolution"], told["IFD0:ResolutionUnit"]) == (300, 2), context
        assert (told["ExifIFD:ExifImageWidth"], told["ExifIFD:ExifImageHeight"]) == (120, 180)
        assert told["Composite:ImageSize"] == "120 180", context
        assert not [name for name in told if name.startswith("IFD1:")], context
        assert "ExifTool:Warning" not in told, (*context, told.get("ExifTool:Warning"))
    png, tif, jpg, _, avif = after
    assert avif["QuickTime:ImagePixelDepth"] == ("12 12 12" if deep else "8 8 8")
    assert jpg["File:YCbCrSubSampling"] == "1 1"
    assert png["PNG-pHYs:PixelsPerUnitX"] == round(300 / 0.0254)
    assert (jpg["JFIF:XResolution"], jpg["JFIF:ResolutionUnit"]) == (300, 1)
    assert (tif["IFD0:YResolution"], tif["IFD0:ResolutionUnit"]) == (300, 2)


def test_its_own_resolution_is_kept_where_no_other_is_asked_for(
    photograph: Path, tmp_path: Path
) -> None:
    for suffix in ("png", "tif", "jpg"):
        output = tmp_path / f"out.{suffix}"
        doubled(photograph, output)
        x, unit = identified(output, "%x|%U")
        dots = float(x) * (2.54 if unit == "PixelsPerCentimeter" else 1)
        assert dots == pytest.approx(240, abs=0.02), (photograph.name, suffix)


def test_pixels_and_depth_survive_upright(photograph: Path, tmp_path: Path) -> None:
    depth = "16" if photograph.name.startswith("photo16") else "8"
    expected = np.frombuffer(raw(photograph, "-rotate", "90", "-sample", "200%"), np.uint16)
    # Decoders of lossy formats differ a little, above all in how they enlarge the colour planes.
    allowed = 0.02 * 65535 if photograph.suffix in (".jpg", ".webp") else 0
    for suffix in ("png", "tif"):
        output = tmp_path / f"out.{suffix}"
        doubled(photograph, output)
        assert identified(output, "%z|%w|%h") == [depth, "120", "180"]
        found = np.frombuffer(raw(output), np.uint16)
        assert np.abs(found - expected.astype(int)).max() <= allowed, (photograph.name, suffix)


def test_what_imagemagick_puts_behind_a_pngs_pixels_survives(pattern: Path, tmp_path: Path) -> None:
    photograph, path, output = (tmp_path / name for name in ("photo.jpg", "in.png", "out.tif"))
    run(CONVERT, pattern, "-depth", "8", photograph)
    run("exiftool", "-q", "-overwrite_original", "-n", "-IFD0:Orientation=6", "-IFD0:Make=Fabrikat",
        photograph)  # fmt: skip
    run(CONVERT, photograph, path)
    assert doubled(path, output) == []
    (told,) = tags(output)
    assert told["Composite:ImageSize"] == "120 180"
    assert told["IFD0:Make"] == "Fabrikat"


MIN_IS_WHITE = ("-define", "quantum:polarity=min-is-white")
KINDS = {
    "gray8.png": ["-colorspace", "Gray", "-depth", "8"],
    "gray16.png": ["-colorspace", "Gray", "-depth", "16"],
    "graya8.png": ["-colorspace", "Gray", "-depth", "8", "ALPHA"],
    "graya16.tif": ["-colorspace", "Gray", "-depth", "16", "ALPHA"],
    "bilevel.tif": ["-monochrome", "-compress", "group4"],
    "inverted.tif": ["-colorspace", "Gray", "-depth", "8", *MIN_IS_WHITE],
    "palette.png": ["-colors", "32", "-define", "png:color-type=3", "-depth", "8"],
    "palette.gif": ["-colors", "32", "-depth", "8"],
    "palette.tif": ["-colors", "32", "-type", "Palette", "-depth", "8"],
    "rgba8.png": ["-depth", "8", "ALPHA"],
    "rgba16.png": ["-depth", "16", "ALPHA"],
    "rgba16.tif": ["-depth", "16", "ALPHA", "-define", "tiff:alpha=unassociated"],
    "tiled.tif": ["-depth", "8", "-define", "tiff:tile-geometry=16x16"],
    "big64.tif": ["-depth", "8", "-define", "tiff:endian=msb"],
    "interlaced.png": ["-depth", "8", "-interlace", "plane"],
    "rgba.webp": ["-depth", "8", "ALPHA", "-define", "webp:lossless=true"],
}  # fmt: skip
# Alpha of many values, none of them zero: colour under zero alpha is ours to fill.
ALPHA = ["(", "-size", "90x60", "gradient:white-gray20", "-colorspace", "Gray", ")",
         "-alpha", "off", "-compose", "copy-opacity", "-composite"]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_pixel_comes_through_unchanged(
    pattern: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    options = [part for one in KINDS[name] for part in (ALPHA if one == "ALPHA" else [one])]
    prefix = "TIFF64:" if name.startswith("big64") else ""
    run(CONVERT, pattern, "-strip", *options, f"{prefix}{path}")
    expected = raw(path, "-sample", "200%")
    for suffix in ("png", "tif"):
        output = tmp_path / f"out.{suffix}"
        assert doubled(path, output) == []
        assert raw(output) == expected, (name, suffix)
        channels, depth = identified(output, "%[channels]|%z")
        assert depth == ("16" if "16" in name else "8")
        # ImageMagick names gray pictures of PNG "gray"; with alpha it may say "graya" or "srgba".
        assert channels.startswith("gray") == (name[:4] in ("gray", "bile", "inve"))


def test_a_tiff_is_what_libtiff_expects(pattern: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    run(CONVERT, pattern, "-depth", "16", *ALPHA, path)
    output = tmp_path / "out.tif"
    doubled(path, output, target_dpi=300)
    done = subprocess.run(
        ["tiffinfo", "-d", output], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    assert done.stderr == ""
    for line in (
        "Resolution: 300, 300 pixels/inch",
        "Bits/Sample: 16",
        "Compression Scheme: AdobeDeflate",
        "Predictor: horizontal differencing 2 (0x2)",
        "Extra Samples: 1<unassoc-alpha>",
        "Orientation: row 0 top, col 0 lhs",
    ):
        assert line in done.stdout
    run("tiffcp", "-c", "lzw", output, tmp_path / "copied.tif")
    assert raw(tmp_path / "copied.tif") == raw(output)


def test_cmyk_looks_as_another_colour_engine_shows_it(pattern: Path, tmp_path: Path) -> None:
    srgb, cmyk = profile(tmp_path, "srgb"), profile(tmp_path, "cmyk")
    for name in ("ink.tif", "ink.jpg"):
        path, output = tmp_path / name, tmp_path / "out.png"
        run(CONVERT, pattern, "-strip", "-depth", "8", "-profile", srgb, "-profile", cmyk, path)
        expected = raw(path, "-black-point-compensation", "-intent", "relative",
                       "-profile", str(srgb), "-sample", "200%")  # fmt: skip
        assert doubled(path, output) == []
        assert identified(output, "%[colorspace]") == ["sRGB"]
        (told,) = tags(output)
        assert told["ICC-header:ColorSpaceData"] == "RGB "
        found = np.frombuffer(raw(output), np.uint16).astype(int)
        difference = np.abs(found - np.frombuffer(expected, np.uint16)) / 257
        # Where inks pass what a screen can show, the engines clip at different points.
        assert difference.mean() <= 0.5, name
        assert np.quantile(difference, 0.95) <= 2, name
