"""AVIF files of every range, depth and subsampling are read as libavif reads them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opened_pictures import read_all

Opener = Callable[..., Any]
HEIGHT, WIDTH = 32, 48
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RAMPS = np.stack([X * 255 // WIDTH, Y * 255 // HEIGHT, (X + Y) * 255 // 80], -1).astype(np.uint8)
ALPHA = np.full((HEIGHT, WIDTH), 200, np.uint8)
NCLX_BT601 = struct.pack(">4sHHH", b"nclx", 1, 13, 6)
FULL, LIMITED = b"\x80", b"\0"
# Four equal rows of 16 grays from black to white, alpha a half: monochrome, lossless, full range.
_DEEP = {
    10: "AAAAHGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZgAAAWptZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAA"
    "AAAAAAAAAAAAAA5waXRtAAAAAAABAAAALGlsb2MAAAAARAAAAgABAAAAAQAAAZwAAAA6AAIAAAABAAABjgAAAA4AAABC"
    "aWluZgAAAAAAAgAAABppbmZlAgAAAAABAABhdjAxQ29sb3IAAAAAGmluZmUCAAAAAAIAAGF2MDFBbHBoYQAAAAAaaXJl"
    "ZgAAAAAAAAAOYXV4bAACAAEAAQAAAKdpcHJwAAAAgWlwY28AAAAUaXNwZQAAAAAAAAAQAAAABAAAAA5waXhpAAAAAAEK"
    "AAAADGF2MUOBAFwAAAAAE2NvbHJuY2x4AAEADQAGgAAAADhhdXhDAAAAAHVybjptcGVnOm1wZWdCOmNpY3A6c3lzdGVt"
    "czphdXhpbGlhcnk6YWxwaGEAAAAAHmlwbWEAAAAAAAAAAgABBAECgwQAAgQBAoMFAAAAUG1kYXQSAAoFGAx/Z1AyAxAA"
    "EhIACggYDH9ngIaDUDIsEAClKBbSV+gD993OFOaWHcerhkqoxNz2M4zZXvAyPNaqUzG6ZNdShQWTcVA=",
    12: "AAAAHGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZgAAAWptZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAA"
    "AAAAAAAAAAAAAA5waXRtAAAAAAABAAAALGlsb2MAAAAARAAAAgABAAAAAQAAAZwAAABAAAIAAAABAAABjgAAAA4AAABC"
    "aWluZgAAAAAAAgAAABppbmZlAgAAAAABAABhdjAxQ29sb3IAAAAAGmluZmUCAAAAAAIAAGF2MDFBbHBoYQAAAAAaaXJl"
    "ZgAAAAAAAAAOYXV4bAACAAEAAQAAAKdpcHJwAAAAgWlwY28AAAAUaXNwZQAAAAAAAAAQAAAABAAAAA5waXhpAAAAAAEM"
    "AAAADGF2MUOBQHwAAAAAE2NvbHJuY2x4AAEADQAGgAAAADhhdXhDAAAAAHVybjptcGVnOm1wZWdCOmNpY3A6c3lzdGVt"
    "czphdXhpbGlhcnk6YWxwaGEAAAAAHmlwbWEAAAAAAAAAAgABBAECgwQAAgQBAoMFAAAAVm1kYXQSAAoFWAx/Y6gyAxAA"
    "EhIACghYDH9jwENBqDIyEAClKBT3sJja+otxHVkAT/yixERrmbduhJLg7dZX0oHRtmDkipCyMH3EBfLbGAI2+kA=",
}


def decoded(opened: Opener, path: Path) -> np.ndarray:
    with opened(image_path=path) as source:
        return read_all(source)


def by_libavif(path: Path, mode: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert(mode)).astype(int)


@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("subsampling", ["4:0:0", "4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("stored_range", ["full", "limited"])
def test_eight_bits_of_every_kind_equal_libavifs_pixels(
    tmp_path: Path, opened: Opener, stored_range: str, subsampling: str, with_alpha: bool
) -> None:
    path = tmp_path / "in.avif"
    pixels = np.dstack([RAMPS, ALPHA]) if with_alpha else RAMPS
    options: dict[str, Any] = {"range": stored_range, "subsampling": subsampling}
    Image.fromarray(pixels).save(path, quality=98, speed=10, **options)
    out = decoded(opened, path)
    wanted = by_libavif(path, "RGBA" if with_alpha else "RGB")
    # Decoders differ in how they enlarge the differences of colour.
    most = 1 if subsampling == "4:0:0" else 2 if subsampling == "4:4:4" else 6
    assert np.abs(out - wanted).max() <= most


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("full", [True, False])
def test_deep_gray_goes_from_black_to_white(
    tmp_path: Path, opened: Opener, bits: int, full: bool
) -> None:
    data = base64.b64decode(_DEEP[bits])
    assert data.count(NCLX_BT601 + FULL) == 1
    path = tmp_path / "in.avif"
    path.write_bytes(data.replace(NCLX_BT601 + FULL, NCLX_BT601 + (FULL if full else LIMITED)))
    stored = np.rint(np.linspace(0, 2**bits - 1, 16))
    unit = 2 ** (bits - 8)
    black, steps = (0, 2**bits - 1) if full else (16 * unit, 219 * unit)
    wanted = np.clip((stored - black) / steps, 0, 1) * 65535
    out = decoded(opened, path).astype(int)
    assert np.abs(out[0, :, :3] - wanted[:, None]).max() <= 1
    assert (out.min(), out.max()) == (0, 65535)
    assert np.abs(out[:, :, 3] - 2 ** (bits - 1) / (2**bits - 1) * 65535).max() <= 1


def test_limited_range_without_a_matrix_is_expanded_equally_in_all_colours(
    tmp_path: Path, opened: Opener
) -> None:
    path = tmp_path / "in.avif"
    options: dict[str, Any] = {"range": "limited", "subsampling": "4:4:4"}
    Image.fromarray(RAMPS).save(path, quality=98, speed=10, **options)
    data = path.read_bytes()
    assert data.count(NCLX_BT601 + LIMITED) == 1
    identity = NCLX_BT601[:-2] + b"\0\0" + LIMITED
    path.write_bytes(data.replace(NCLX_BT601 + LIMITED, identity))
    assert np.abs(decoded(opened, path) - by_libavif(path, "RGB")).max() <= 2
