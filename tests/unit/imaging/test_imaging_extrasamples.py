"""TIFF files with channels behind their colours: only a channel declared as alpha is alpha."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opened_pictures import RNG, read_all
from recording import RecordingContext
from upscaled_imaging.tags import (
    BIG_HEADER_BYTES,
    Tag,
    TagType,
    header,
    long,
    long8,
    pack,
    short,
)

Opener = Callable[..., Any]
WHITE_IS_ZERO, GRAY, RGB, CMYK = 0, 1, 2, 5
COLOURS = {WHITE_IS_ZERO: 1, GRAY: 1, RGB: 3, CMYK: 4}
INKS_NO_CMYK = short(332, 2)
HEIGHT, WIDTH = 35, 41
LEFT_OUT = "no transparency"


def channels(count: int, bits: int = 8) -> np.ndarray:
    return RNG.integers(0, 2**bits, (HEIGHT, WIDTH, count), dtype=f"uint{bits}")


def tiff(
    path: Path,
    pixels: np.ndarray,
    extras: list[int] | None,
    colours: int = RGB,
    *,
    apart: bool = False,
    tiles: bool = False,
    big: bool = False,
    more: tuple[Tag, ...] = (),
) -> Path:
    """A file of `pixels`; in tiles of 16 x 16 or strips of 8 rows; `apart`: planar."""
    bands = pixels.shape[2]
    high, wide = (16, 16) if tiles else (8, WIDTH)
    pieces = []
    for plane, y, x in itertools.product(
        range(bands if apart else 1), range(0, HEIGHT, high), range(0, WIDTH, wide)
    ):
        piece = pixels[y : y + high, x : x + wide]
        if tiles:
            short_by = ((0, high - piece.shape[0]), (0, wide - piece.shape[1]), (0, 0))
            piece = np.pad(piece, short_by)
        pieces.append(zlib.compress((piece[:, :, plane] if apart else piece).tobytes()))
    body, starts = bytes(BIG_HEADER_BYTES), []
    for data in pieces:
        starts.append(len(body))
        body += data
    lengths = [len(data) for data in pieces]
    tags = [
        long(256, WIDTH),
        long(257, HEIGHT),
        short(258, *[8 * pixels.itemsize] * bands),
        short(259, 8),
        short(262, colours),
        short(277, bands),
        short(284, 2 if apart else 1),
        *more,
    ]
    if extras is not None:
        tags.append(short(338, *extras))
    places, sizes = (324, 325) if tiles else (273, 279)
    tags += [long(322, wide), long(323, high)] if tiles else [long(278, high)]
    tags += [
        long8(places, starts) if big else long(places, *starts),
        long8(sizes, lengths) if big else long(sizes, *lengths),
    ]
    at = len(body)
    path.write_bytes(header(at, big=big) + body[8 * (1 + big) :] + pack(tags, at, big=big))
    return path


def upright_gray(pixels: np.ndarray, colours: int) -> np.ndarray:
    """The values that are expected: white is the highest."""
    out = pixels.copy()
    if colours == WHITE_IS_ZERO:
        out[:, :, 0] = np.iinfo(out.dtype).max - out[:, :, 0]
    return out


@pytest.mark.parametrize("extras", [[0], [0, 0], None, [999]])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colours", [WHITE_IS_ZERO, GRAY, RGB])
def test_a_selection_or_an_ink_is_left_out_and_the_colours_are_kept(
    tmp_path: Path,
    opened: Opener,
    context: RecordingContext,
    colours: int,
    bits: int,
    extras: list[int] | None,
) -> None:
    pixels = channels(COLOURS[colours] + len(extras or [0]), bits)
    pixels[:, :, COLOURS[colours] :] = 0
    with opened(image_path=tiff(tmp_path / "in.tif", pixels, extras, colours)) as source:
        assert (source.bands, source.bits) == (COLOURS[colours], bits)
        out = read_all(source)
    assert np.array_equal(out, upright_gray(pixels, colours)[:, :, : COLOURS[colours]])
    (warning,) = context.warnings
    assert LEFT_OUT in warning


@pytest.mark.parametrize("extras", [[2, 0], [0, 2], [0, 2, 0, 2]])
@pytest.mark.parametrize("colours", [GRAY, RGB])
def test_the_channel_declared_as_alpha_is_the_transparency(
    tmp_path: Path, opened: Opener, context: RecordingContext, colours: int, extras: list[int]
) -> None:
    count = COLOURS[colours]
    pixels = channels(count + len(extras))
    pixels[:, :, count:] |= 1
    with opened(image_path=tiff(tmp_path / "in.tif", pixels, extras, colours)) as source:
        out = read_all(source)
    alpha = count + extras.index(2)
    assert np.array_equal(out, pixels[:, :, [*range(count), alpha]])
    (warning,) = context.warnings
    assert LEFT_OUT in warning


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colours", [WHITE_IS_ZERO, GRAY, RGB])
@pytest.mark.parametrize("extras", [[1], [0, 1]])
@pytest.mark.parametrize("apart", [False, True])
def test_colours_multiplied_by_alpha_are_divided_to_the_nearest(
    tmp_path: Path, opened: Opener, colours: int, bits: int, extras: list[int], apart: bool
) -> None:
    count, top = COLOURS[colours], 2**bits - 1
    pixels = channels(count + len(extras), bits)
    alpha = pixels[:, :, -1:]
    alpha |= 1 << (bits - 2)
    multiplied = np.rint(pixels[:, :, :count] * (alpha / top))
    pixels[:, :, :count] = multiplied
    path = tiff(tmp_path / "in.tif", pixels, extras, colours, apart=apart)
    with opened(image_path=path) as source:
        out = read_all(source)
    divided = np.minimum(multiplied * top / alpha, top)
    wanted = top - divided if colours == WHITE_IS_ZERO else divided
    assert np.array_equal(out[:, :, -1:], alpha)
    # Half a level, and the error of single precision.
    assert np.abs(out[:, :, :-1] - wanted).max() < 0.51


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("colours", "extras"), [(GRAY, [0]), (GRAY, [2]), (RGB, []), (RGB, [0, 2])]
)
def test_channels_that_are_stored_apart_are_put_together(
    tmp_path: Path, opened: Opener, colours: int, extras: list[int], big: bool, tiles: bool
) -> None:
    count = COLOURS[colours]
    pixels = channels(count + len(extras), 16)
    pixels[:, :, count:] |= 1
    path = tiff(
        tmp_path / "in.tif", pixels, extras or None, colours, apart=True, tiles=tiles, big=big
    )
    with opened(image_path=path) as source:
        out = read_all(source, 5)
    kept = [*range(count), *(count + extras.index(2) for _ in range(extras.count(2)))]
    assert np.array_equal(out, pixels[:, :, kept])


@pytest.mark.parametrize("apart", [False, True])
def test_inks_with_a_spot_ink_and_transparency_keep_the_transparency(
    tmp_path: Path, opened: Opener, apart: bool
) -> None:
    pixels = channels(6, 16)
    pixels[:, :, 4], pixels[:, :, 5] = 0, 40_000
    with opened(image_path=tiff(tmp_path / "a.tif", pixels, [0, 1], CMYK, apart=apart)) as source:
        both = read_all(source)
    divided = np.minimum(np.rint(pixels[:, :, :4] * (65535 / 40_000)), 65535).astype(np.uint16)
    with opened(image_path=tiff(tmp_path / "b.tif", divided, None, CMYK)) as source:
        inks = read_all(source)
    assert np.all(both[:, :, 3] == 40_000)
    assert np.abs(both[:, :, :3].astype(int) - inks).max() <= 2


def test_inks_other_than_cmyk_are_not_taken_for_it(tmp_path: Path, opened: Opener) -> None:
    path = tiff(tmp_path / "in.tif", channels(5), [0], CMYK, more=(INKS_NO_CMYK,))
    with pytest.raises(Exception, match="convert it to gray or RGB"), opened(image_path=path):
        pass


@pytest.mark.parametrize("kind", [TagType.BYTE, TagType.LONG])
def test_numbers_of_another_size_have_the_same_meaning(
    tmp_path: Path, opened: Opener, context: RecordingContext, kind: TagType
) -> None:
    pixels = channels(5) | 1
    listed = struct.pack("<BB" if kind == TagType.BYTE else "<II", 0, 1)
    path = tiff(tmp_path / "in.tif", pixels, None, RGB, more=(Tag(338, kind, listed),))
    with opened(image_path=path) as source:
        out = read_all(source)
    assert np.array_equal(out[:, :, 3], pixels[:, :, 4])
    assert len(context.warnings) == 1
