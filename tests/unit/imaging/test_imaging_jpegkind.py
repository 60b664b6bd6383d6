"""JPEG files in codings that are not read: the error names the coding."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opened_pictures import RGB, Opener, error_of
from upscaled_protocol.errors import ErrorCode


def jpeg(path: Path, frame: int = 0xC0, bits: int = 8, **options: bool) -> Path:
    """A JPEG whose frame header declares another coding than the file has."""
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", **options)
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 1] = frame
    data[at + 4] = bits
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("frame", "bits", "named"),
    [
        (0xC0, 12, "a JPEG of 12 bits"),
        (0xC1, 12, "a JPEG of 12 bits"),
        (0xC2, 12, "a JPEG of 12 bits"),
        (0xC3, 16, "a lossless JPEG of 16 bits"),
        (0xCB, 8, "a lossless JPEG with arithmetic coding"),
        (0xC5, 8, "a hierarchical JPEG"),
        (0xF7, 8, "a JPEG-LS"),
    ],
)
def test_codings_that_are_not_read_are_named(
    tmp_path: Path, opened: Opener, frame: int, bits: int, named: str
) -> None:
    error = error_of(opened, image_path=jpeg(tmp_path / "in.jpg", frame, bits))
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert named in error.message
    assert "convert it" in error.message


def test_an_extended_frame_of_eight_bits_is_read(tmp_path: Path, opened: Opener) -> None:
    with opened(image_path=jpeg(tmp_path / "in.jpg", 0xC1)) as source:
        expected = np.asarray(Image.open(tmp_path / "in.jpg"))
        assert np.array_equal(source.rows(100), expected)
