"""The colours of a file: broken profiles, and colour tags instead of profiles."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from upscaled_imaging.colour_tags import tagged_profile
from upscaled_imaging.icc import usable

Opener = Callable[..., Any]
Upscale = Callable[..., str]
RGB = np.random.default_rng(17).integers(0, 256, (20, 30, 3), dtype=np.uint8)
PROFILES = {name: bytes(pyvips.Image.profile_load(name)) for name in ("srgb", "p3", "cmyk")}
GRAYS = np.arange(256, dtype=np.uint8).reshape(16, 16)


def cut(profile: bytes) -> bytes:
    return profile[:-100]


def no_profile(profile: bytes) -> bytes:
    return profile[:36] + b"none" + profile[40:]


def device_link(profile: bytes) -> bytes:
    return profile[:12] + b"link" + profile[16:]


def tag_outside(profile: bytes) -> bytes:
    return profile[:136] + struct.pack(">I", len(profile)) + profile[140:]


BROKEN = [
    cut,
    no_profile,
    device_link,
    tag_outside,
    lambda profile: profile[:130],
    lambda profile: b"abc",
]


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp", "png"])
def test_a_broken_profile_is_left_out_with_a_warning(
    tmp_path: Path, opened: Opener, context: Any, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"in.{suffix}"
    Image.fromarray(RGB).save(path, icc_profile=damage(PROFILES["p3"]))
    with opened(image_path=path) as source:
        assert source.metadata.icc is None
    assert ["profile is broken" in warning for warning in context.warnings] == [True]


def test_bytes_behind_a_profile_are_removed(tmp_path: Path, opened: Opener) -> None:
    path = tmp_path / "in.tif"
    Image.fromarray(RGB).save(path, icc_profile=PROFILES["p3"] + b"and more")
    with opened(image_path=path) as source:
        assert source.metadata.icc == PROFILES["p3"]


@pytest.mark.parametrize("profile", [cut(PROFILES["cmyk"]), PROFILES["p3"], b"abc"])
def test_cmyk_with_a_useless_profile_gets_a_warning(
    tmp_path: Path, opened: Opener, context: Any, profile: bytes
) -> None:
    ink = Image.fromarray(RGB).convert("CMYK")
    ink.save(tmp_path / "bare.tif")
    ink.save(tmp_path / "wrong.tif", icc_profile=profile)
    with opened(image_path=tmp_path / "bare.tif") as source:
        expected = source.rows(20)
    (general,) = context.warnings
    with opened(image_path=tmp_path / "wrong.tif") as source:
        assert np.array_equal(source.rows(20), expected)
    assert context.warnings[1:] == [context.warnings[1], general]
    assert "profile is broken" in context.warnings[1]


@given(noise=st.binary(max_size=200), at=st.integers(0, 200), length=st.integers(0, 700))
def test_no_profile_breaks_the_check(noise: bytes, at: int, length: int) -> None:
    profile = PROFILES["p3"][:length]
    found = usable(profile[:at] + noise + profile[at + len(noise) :])
    assert found is None or found.startswith(profile[:at][: len(found)])


def shown(rgb: np.ndarray, profile: bytes, wanted: bytes) -> np.ndarray:
    """The values of the same colours in another profile, by another colour engine."""
    mine, its = (ImageCms.ImageCmsProfile(io.BytesIO(one)) for one in (profile, wanted))
    mode = "RGB" if rgb.ndim == 3 else "L"
    converted = ImageCms.profileToProfile(Image.fromarray(rgb, mode), mine, its, outputMode="RGB")
    assert converted is not None
    return np.asarray(converted).astype(int)


def with_chunks(path: Path, picture: np.ndarray, **chunks: bytes) -> Path:
    """A PNG with these chunks before its pixels."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    data = file.getvalue()
    at = data.index(b"IDAT") - 4
    added = b"".join(
        struct.pack(">I", len(body)) + kind.encode() + body
        + struct.pack(">I", zlib.crc32(kind.encode() + body))
        for kind, body in chunks.items()
    )  # fmt: skip
    path.write_bytes(data[:at] + added + data[at:])
    return path


def chromaticities(*values: float) -> bytes:
    return struct.pack(">8I", *(round(value * 100_000) for value in values))


P3_CHROMATICITIES = chromaticities(0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
SRGB_CHROMATICITIES = chromaticities(0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
GAMMA = struct.pack(">I", 45_455)


@pytest.mark.parametrize(
    "chunks",
    [{"cICP": bytes([12, 13, 0, 1])}, {"gAMA": GAMMA, "cHRM": P3_CHROMATICITIES}],
    ids=["cICP", "cHRM"],
)
def test_a_pngs_colour_tags_become_their_profile(
    tmp_path: Path, opened: Opener, context: Any, chunks: dict[str, bytes]
) -> None:
    with opened(image_path=with_chunks(tmp_path / "in.png", RGB, **chunks)) as source:
        icc = source.metadata.icc
    assert icc is not None
    assert np.abs(shown(RGB, icc, PROFILES["p3"]) - RGB).max() <= 4
    assert np.abs(shown(RGB, icc, PROFILES["srgb"]) - RGB).max() > 30
    assert context.warnings == []


def profile_chunk(name: str) -> bytes:
    return b"a name\0\0" + zlib.compress(PROFILES[name])


@pytest.mark.parametrize("code_points", [(12, 13), (1, 13)], ids=["p3", "srgb"])
def test_a_pngs_code_points_rank_before_its_profile(
    tmp_path: Path, opened: Opener, context: Any, code_points: tuple[int, int]
) -> None:
    embedded = "srgb" if code_points[0] == 12 else "p3"
    chunks = {"iCCP": profile_chunk(embedded), "cICP": bytes([*code_points, 0, 1])}
    with opened(image_path=with_chunks(tmp_path / "in.png", RGB, **chunks)) as source:
        icc = source.metadata.icc
    if code_points[0] == 1:
        assert icc is None
    else:
        assert icc is not None
        assert np.abs(shown(RGB, icc, PROFILES["p3"]) - RGB).max() <= 4
    assert context.warnings == []


@pytest.mark.parametrize(("curve", "name"), [(16, "PQ"), (18, "HLG")])
@pytest.mark.parametrize("has_profile", [False, True])
def test_an_hdr_png_gets_a_warning_and_keeps_its_profile(
    tmp_path: Path, opened: Opener, context: Any, curve: int, name: str, has_profile: bool
) -> None:
    chunks = {"iCCP": profile_chunk("p3")} if has_profile else {}
    chunks |= {"cICP": bytes([9, curve, 0, 1])}
    with opened(image_path=with_chunks(tmp_path / "in.png", RGB, **chunks)) as source:
        assert source.metadata.icc == (PROFILES["p3"] if has_profile else None)
    (warning,) = context.warnings
    assert f"HDR ({name})" in warning


@pytest.mark.parametrize("code_points", [(6, 6), (9, 14), (1, 17), (1, 8), (0, 0)])
def test_code_points_of_other_spaces_are_left_out_and_named(
    tmp_path: Path, opened: Opener, context: Any, code_points: tuple[int, int]
) -> None:
    chunks = {"iCCP": profile_chunk("p3"), "cICP": bytes([*code_points, 0, 1])}
    with opened(image_path=with_chunks(tmp_path / "in.png", RGB, **chunks)) as source:
        assert source.metadata.icc == PROFILES["p3"]
    (warning,) = context.warnings
    assert f"(primaries {code_points[0]}, transfer {code_points[1]})" in warning


def test_an_unspecified_code_point_is_that_of_srgb(tmp_path: Path, opened: Opener) -> None:
    chunks = {"cICP": bytes([12, 2, 0, 1])}
    with opened(image_path=with_chunks(tmp_path / "in.png", RGB, **chunks)) as source:
        icc = source.metadata.icc
    assert icc is not None
    assert np.abs(shown(RGB, icc, PROFILES["p3"]) - RGB).max() <= 4


def test_unspecified_code_points_leave_the_profile(tmp_path: Path, opened: Opener) -> None:
    chunks = {"iCCP": profile_chunk("p3"), "cICP": bytes([2, 2, 0, 1])}
    with opened(image_path=with_chunks(tmp_path / "in.png", RGB, **chunks)) as source:
        assert source.metadata.icc == PROFILES["p3"]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_of_limited_range_goes_from_black_to_white(
    tmp_path: Path, opened: Opener, bits: int
) -> None:
    unit = 1 if bits == 8 else 256
    gray = np.array([[0, 16, 126, 235, 255]], f"uint{bits}") * unit
    chunks = {"cICP": bytes([1, 13, 0, 0])}
    with opened(image_path=with_chunks(tmp_path / "in.png", gray, **chunks)) as source:
        out = source.rows(1)[0, :, 0].astype(int)
    top = 2**bits - 1
    assert np.array_equal(out[[0, 1, 3, 4]], [0, 0, top, top])
    assert abs(out[2] - (126 - 16) / 219 * top) <= 1


@pytest.mark.parametrize(
    "chunks",
    [
        {"sRGB": b"\0", "gAMA": struct.pack(">I", 100_000)},
        {"gAMA": GAMMA, "cHRM": SRGB_CHROMATICITIES},
        {"gAMA": GAMMA},
        {"cHRM": SRGB_CHROMATICITIES},
        {"cICP": bytes([1, 13, 0, 1])},
        {"cICP": bytes([2, 2, 0, 1])},
    ],
)
def test_a_png_that_is_srgb_or_has_no_colour_tags_gets_no_profile(
    tmp_path: Path, opened: Opener, context: Any, chunks: dict[str, bytes]
) -> None:
    with opened(image_path=with_chunks(tmp_path / "in.png", RGB, **chunks)) as source:
        assert source.metadata.icc is None
    assert context.warnings == []


ADOBE_RGB = chromaticities(0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
LINEAR = struct.pack(">I", 100_000)


@pytest.mark.parametrize(
    "chunks",
    [
        {"gAMA": GAMMA, "cHRM": ADOBE_RGB},
        {"gAMA": LINEAR},
        {"gAMA": LINEAR, "cHRM": P3_CHROMATICITIES},
        {"gAMA": bytes(4)},
    ],
    ids=["Adobe RGB", "linear", "linear P3", "broken"],
)
def test_a_gamma_and_chromaticities_of_other_spaces_are_left_out_with_a_warning(
    tmp_path: Path, opened: Opener, context: Any, chunks: dict[str, bytes]
) -> None:
    with opened(image_path=with_chunks(tmp_path / "in.png", RGB, **chunks)) as source:
        assert source.metadata.icc is None
    (warning,) = context.warnings
    assert "colour tags (gAMA, cHRM) were left out" in warning


@pytest.mark.parametrize(
    "chunks", [{"gAMA": GAMMA, "cHRM": ADOBE_RGB}, {"cICP": bytes([6, 6, 0, 1])}]
)
def test_primaries_do_not_matter_to_gray(
    tmp_path: Path, opened: Opener, context: Any, chunks: dict[str, bytes]
) -> None:
    with opened(image_path=with_chunks(tmp_path / "in.png", GRAYS, **chunks)) as source:
        assert source.metadata.icc is None
    assert context.warnings == []


@pytest.mark.parametrize("chunks", [{"gAMA": LINEAR}, {"cHRM": ADOBE_RGB, "gAMA": GAMMA}])
def test_a_profile_ranks_before_a_gamma_and_chromaticities(
    tmp_path: Path, opened: Opener, context: Any, chunks: dict[str, bytes]
) -> None:
    chunks = {"iCCP": profile_chunk("p3"), **chunks}
    with opened(image_path=with_chunks(tmp_path / "in.png", RGB, **chunks)) as source:
        assert source.metadata.icc == PROFILES["p3"]
    assert context.warnings == []


def avif(path: Path, picture: Image.Image, before: bytes, after: bytes, **options: Any) -> Path:
    """An AVIF in which some bytes are replaced."""
    picture.save(path, quality=100, subsampling="4:4:4", **options)
    data = path.read_bytes()
    assert data.count(before) == 1
    path.write_bytes(data.replace(before, after))
    return path


def test_an_avifs_code_points_become_their_profile(
    tmp_path: Path, opened: Opener, context: Any
) -> None:
    srgb = struct.pack(">4sHH", b"nclx", 1, 13)
    still = Image.fromarray(RGB)
    p3 = avif(tmp_path / "p3.avif", still, srgb, struct.pack(">4sHH", b"nclx", 12, 13))
    with opened(image_path=p3) as source:
        assert source.metadata.icc is not None
        assert np.abs(shown(RGB, source.metadata.icc, PROFILES["p3"]) - RGB).max() <= 4
    with opened(image_path=avif(tmp_path / "srgb.avif", still, srgb, srgb)) as source:
        assert source.metadata.icc is None
    assert context.warnings == []
    hdr = avif(tmp_path / "hdr.avif", still, srgb, struct.pack(">4sHH", b"nclx", 9, 16))
    with opened(image_path=hdr) as source:
        assert source.metadata.icc is None
    assert ["HDR (PQ)" in warning for warning in context.warnings] == [True]


def test_colours_multiplied_by_their_alpha_are_divided_again(
    tmp_path: Path, opened: Opener
) -> None:
    alpha = np.full((20, 30, 1), 128, np.uint8)
    multiplied = np.dstack([np.full((20, 30, 3), (100, 50, 20), np.uint8), alpha])
    exif = Image.Exif()
    exif[271] = "maker"
    # "Item 3, EXIF, describes item 1" becomes "item 1 is multiplied by item 2, its alpha".
    describes, multiplied_by = (b"cdsc\0\3\0\1\0\1", b"prem\0\1\0\1\0\2")
    picture = Image.fromarray(multiplied)
    path = avif(tmp_path / "in.avif", picture, describes, multiplied_by, exif=exif)
    with opened(image_path=path) as source:
        found = source.rows(20)
    assert np.abs(found[:, :, :3].astype(int) - (199, 100, 40)).max() <= 6
    assert np.abs(found[:, :, 3].astype(int) - 128).max() <= 2


@given(noise=st.binary(max_size=120), kind=st.sampled_from(["png", "avif"]))
def test_broken_colour_tags_never_raise(noise: bytes, kind: str) -> None:
    names = [b"gAMA", b"cHRM", b"cICP", b"meta", b"iprp", b"ipco", b"colr"]
    for name in names:
        data = struct.pack(">I4s", 8 + len(noise), name) + noise
        tagged_profile(kind, lambda at, n, d=bytes(8) + data: d[at : at + n],  # type: ignore[misc]
                     is_gray=False, warn=lambda _: None)  # fmt: skip


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize(
    ("index", "profile", "is_told"),
    [("R03", None, True), ("R98", None, False), ("R03", "p3", False)],
)
def test_adobe_rgb_in_exif_without_a_profile_is_pointed_out(
    tmp_path: Path,
    opened: Opener,
    context: Any,
    suffix: str,
    index: str,
    profile: str | None,
    is_told: bool,
) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = 0xFFFF
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: index}
    more: dict[str, Any] = {} if profile is None else {"icc_profile": PROFILES[profile]}
    path = tmp_path / f"in.{suffix}"
    Image.fromarray(RGB).save(path, exif=exif, **more)
    with opened(image_path=path):
        pass
    assert [("Adobe RGB" in text) for text in context.warnings] == [True] * is_told
