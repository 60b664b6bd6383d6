"""Kinds of files by their first bytes: each well-known kind has a name and advice."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from opened_pictures import RGB, Opener, error_of, save
from upscaled_imaging.kinds import HEAD_BYTES, kind_of, recognise
from upscaled_protocol.errors import ErrorCode, JobError

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'
REST = bytes(300)


def by_pillow(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, kind, **options)
    return file.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    """Without a time: the bytes name a test, and processes that share the tests compare names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def through_text(data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode()


def named(head: bytes) -> str:
    """The sentence with which a file of an unread kind is refused."""
    with pytest.raises(JobError) as caught:
        recognise(head)
    assert caught.value.code is ErrorCode.UNSUPPORTED_FORMAT, caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, kind) for kind in ["ICO", "PCX", "DDS", "SGI", "QOI", "EPS", "PDF"]),
        ("PPM", "PNM"),
        ("JPEG2000", "JPEG 2000"),
    ],
)
def test_other_pictures_are_named(kind: str, name: str) -> None:
    sentence = named(by_pillow(kind)[:HEAD_BYTES])
    assert name in sentence
    assert "convert it" in sentence or "export it" in sentence


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("compression", [None, "tga_rle"])
def test_a_tga_is_recognised_without_a_signature(mode: str, compression: str | None) -> None:
    file = io.BytesIO()
    Image.fromarray(RGB).convert(mode).save(file, "TGA", compression=compression)
    assert recognise(file.getvalue()) == "tga"


@pytest.mark.parametrize(
    ("head", "name"),
    [(b"II*\0\x10\0\0\0CR\x02\0" + REST, "CR2"), (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "CR3"),
     (b"II\x1a\0\0\0HEAPCCDR\x02", "CRW"), (b"MM\0*\0\0\0\x08MMMMRaw", "IIQ"),
     (b"FUJIFILMCCD-RAW 0201FF129502" + REST, "RAF"), (b"IIU\0\x18\0\0\0" + REST, "RW2"),
     (b"IIRO\x08\0\0\0" + REST, "ORF"), (b"\0MRM\0\0\0\0" + REST, "MRW"), (b"FOVb" + REST, "X3F")],
)  # fmt: skip
def test_camera_raw_files_are_named(head: bytes, name: str) -> None:
    sentence = named(head)
    assert name in sentence
    assert "raw converter" in sentence


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"BA\x36\0\0\0" + REST, "BMP of OS/2"),
        (b"\0\0\0\x18ftypavci\0\0\0\0mif1avci", "H.264"),
        (b"8BPS\0\x02" + REST, "PSD"),
        (b"icns\0\0\x01\0ic07" + REST, "ICNS"),
        (b"gimp xcf v011\0" + REST, "XCF"),
        (b"#?RGBE\nFORMAT=32-bit_rle_rgbe\n", "Radiance HDR"),
        (b"\x76\x2f\x31\x01" + REST, "OpenEXR"),
        (bytes(128) + b"DICM" + REST, "DICOM"),
        (b"SIMPLE  =                    T" + b" " * 2850, "FITS"),
        (b"AT&TFORM\0\0\0\0DJVM", "DjVu"),
        (b"\xd7\xcd\xc6\x9a" + REST, "WMF"),
        (b"\x01\0\0\0\x6c\0\0\0" + bytes(32) + b" EMF", "EMF"),
        (b"FORM\0\0\0\0ILBM", "IFF"),
        (zipped("mimetype", b"application/x-krita"), "Krita"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI" + REST, "Apple"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41", "MP4"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "QuickTime"),
        (b"\x1a\x45\xdf\xa3" + REST, "WebM"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI"),
        (b"RIFF\0\0\0\0WAVEfmt ", "sound"),
        (zipped("photo.png", b"x"), "ZIP"),
        (zipped("[Content_Types].xml", b"x"), "Office"),
        (b"Rar!\x1a\x07\x01\0", "RAR"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "7-Zip"),
        (gzip.compress(b"a tar archive", mtime=0), "gzip"),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X" + REST, "AppleDouble"),
        (b"\x7fELF\x02\x01\x01\0", "program"),
    ],
)  # fmt: skip
def test_other_kinds_of_files_are_named(head: bytes, name: str) -> None:
    assert name in named(head)


@pytest.mark.parametrize(
    "head",
    [
        SVG,
        b"\xef\xbb\xbf" + SVG,
        b"\n \t" + SVG,
        SVG.decode().encode("utf-16"),
        SVG.decode().encode("utf-16-le"),
        b'<?xml version="1.0" standalone="no"?>\n' + SVG,
        b"<?xml version='1.0'?><!-- " + b"Created > with <an editor> " * 200 + b"-->" + SVG,
        b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x.dtd" [<!ENTITY a "b">]>' + SVG,
        SVG.replace(b"svg", b"svg:svg", 1),
        gzip.compress(SVG, mtime=0),
        gzip.compress(b"<!-- licence -->" + SVG, mtime=0),
    ],
)
def test_svg_is_recognised_by_any_of_its_beginnings(head: bytes) -> None:
    sentence = named(head)
    assert "SVG" in sentence
    assert "export it" in sentence


@pytest.mark.parametrize(
    ("head", "name", "what_to_do"),
    [
        (b"<!DOCTYPE html>\n<html><title>403 Forbidden</title>", "HTML", "download"),
        (b"\n\n<HTML lang=en><!-- svg -->", "HTML", "download"),
        (b"<?xml version='1.0'?><Error><Code>403</Code></Error>", "XML (error)", "download"),
        (b'{"error":"expired"}', "JSON", "download"),
        (b"hello world\n" * 50, "plain text", "download"),
        ("Zugriff verweigert für Größe".encode("latin-1"), "plain text", "download"),
        (b"version https://git-lfs.github.com/spec/v1\noid ", "git-lfs", "git lfs pull"),
        (b"iVBORw0KGgoAAAANSUhEUgAA", "base64", "image_base64"),
        (b"data:image/png;base64,iVBORw0KGgo", "base64", "image_base64"),
        (b"--7MA4\r\nContent-Disposition: form-data; name=file\r\n\r\n\x89PNG", "form", "upload"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n", "HTTP", "download"),
        (through_text(b"\x89PNG\r\n\x1a\n\0\0"), "decoded as text", "bytes"),
        (through_text(b"\xff\xd8\xff\xe0\0\x10JFIF"), "decoded as text", "bytes"),
    ],
)  # fmt: skip
def test_a_file_in_place_of_a_picture_is_named(head: bytes, name: str, what_to_do: str) -> None:
    sentence = named(head)
    assert name in sentence
    assert what_to_do in sentence


@pytest.mark.parametrize("head", [b"", bytes(5000), b"\x8f\x01\x02" * 40])
def test_nothing_zeros_and_noise_are_unreadable(head: bytes) -> None:
    with pytest.raises(JobError) as caught:
        recognise(head)
    assert caught.value.code is ErrorCode.INPUT_UNREADABLE


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif", "gif", "bmp", "tga"])
def test_a_picture_is_recognised_without_its_name(
    tmp_path: Path, opened: Opener, suffix: str
) -> None:
    path = save(tmp_path / f"in.{suffix}", RGB)
    kind = kind_of(path.read_bytes()[:HEAD_BYTES])
    assert kind is not None
    assert kind.is_read
    with opened(image_path=path.rename(tmp_path / "in.svg")) as source:
        assert source.width == 53


def test_a_web_page_that_was_saved_as_a_picture_is_named_by_a_job(
    tmp_path: Path, opened: Opener
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"<!DOCTYPE html><html><body>Sign in</body></html>")
    error = error_of(opened, image_path=path)
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "an HTML page" in error.message


@given(st.binary(max_size=600) | st.text(max_size=600).map(str.encode))
def test_any_bytes_have_a_kind_or_none(head: bytes) -> None:
    kind = kind_of(head)
    assert kind is None or kind.name


def test_kinds_are_recognised_without_a_heavy_import() -> None:
    code = "import sys, upscaled_imaging.kinds; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pyvips", "numpy", "torch"} & {*done.stdout.split()}
