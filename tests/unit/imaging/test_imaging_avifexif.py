"""The EXIF block of an AVIF is written byte for byte."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import pyvips
from PIL import Image

from upscaled_imaging.avif import write_avif
from upscaled_imaging.avifexif import with_exif
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.rows import Picture

RNG = np.random.default_rng(3)
P3 = bytes(pyvips.Image.profile_load("p3"))
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>"
# A maker's own tag whose value lies outside of all directories, as maker notes do.
BLOCK = (
    b"MM\0*\0\0\0\x08" + struct.pack(">HHHII", 1, 60_000, 7, 2_000, 26) + bytes(4)
    + RNG.bytes(100_000)
)  # fmt: skip


def written(metadata: Metadata, bands: int = 3) -> bytes:
    rows = np.random.default_rng(4).integers(0, 256, (20, 30, bands), dtype=np.uint8)
    file = io.BytesIO()
    write_avif(iter([rows]), file, Picture(30, 20, bands, 8), metadata, 100)
    return file.getvalue()


@pytest.mark.parametrize("bands", [3, 4])
def test_an_avif_has_every_byte_of_the_exif_block_and_all_else(bands: int) -> None:
    data = written(Metadata(exif=BLOCK, icc=P3, xmp=XMP), bands)
    with Image.open(io.BytesIO(data)) as by_libavif:
        assert by_libavif.info["exif"].removeprefix(b"Exif\0\0") == BLOCK
        assert (by_libavif.info["xmp"], by_libavif.info["icc_profile"]) == (XMP, P3)
        pixels = np.asarray(by_libavif)
    by_libheif = pyvips.Image.heifload_buffer(data)
    assert bytes(by_libheif.get("exif-data")).removeprefix(b"Exif\0\0") == BLOCK
    with Image.open(io.BytesIO(written(Metadata(), bands))) as without:
        assert np.array_equal(pixels, np.asarray(without))
        assert "exif" not in without.info


def test_an_avif_without_exif_gets_none_put_in_place() -> None:
    with pytest.raises(ValueError, match="no EXIF"):
        with_exif(written(Metadata()), BLOCK)
