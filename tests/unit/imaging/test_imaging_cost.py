"""Untrusted files are read in few steps: the tests count reads and bytes, and measure no time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counting import CountedReader, SearchedBytes
from upscaled_imaging.chunks import boxes_at, jpeg_segments, late_png_chunks, png_chunks
from upscaled_imaging.colour_tags import tagged_profile
from upscaled_imaging.exif import from_tiff, resolution, revised, tiff_resolution
from upscaled_imaging.gif import first_frame
from upscaled_imaging.giftext import gif_texts
from upscaled_imaging.icc import usable
from upscaled_imaging.jpegkind import check_jpeg
from upscaled_imaging.kinds import kind_of
from upscaled_imaging.leftout import warn_of_left_out
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.photoshop import resources
from upscaled_imaging.pngtext import png_texts
from upscaled_imaging.resolution import dots_per_inch
from upscaled_imaging.tiffkind import check_tiff
from upscaled_protocol.errors import ErrorCode, JobError

EXIF, GPS, INTEROPERABILITY, MAKER_NOTE = 34665, 34853, 40965, 37500
POINTERS = (EXIF, GPS, INTEROPERABILITY)
# The directories on every path of three nested pointers.
MOST_DIRECTORIES = 16
ENTRY_BYTES = 12


def directory(*entries: tuple[int, int, int, int]) -> bytes:
    """Number, type, count and value or place of each entry; no next directory."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + packed + bytes(4)


def tiff(*directories: bytes) -> bytes:
    return b"II*\0\x08\0\0\0" + b"".join(directories)


def bomb(pointers: int) -> bytes:
    """Each directory points to the next, many times over, and each gives the whole file."""
    step = 6 + ENTRY_BYTES * (pointers + 10)
    length = 8 + 3 * step
    return tiff(
        *(
            directory(
                *[(number, 4, 1, 8 + (index + 1) * step)] * pointers,
                *[(MAKER_NOTE + extra % 2, 7, length, 0) for extra in range(10)],
            )
            for index, number in enumerate(POINTERS)
        )
    )


def test_a_directory_that_is_named_many_times_is_read_once() -> None:
    small, large = (CountedReader(bomb(pointers)) for pointers in (1, 40))
    for reader in (small, large):
        block = from_tiff(reader)
        assert block is not None
        assert len(block) < 3 * 2 * len(bomb(40))
    # Each directory has two distinct values and one pointer, which it repeats.
    assert large.calls == small.calls


def test_a_directory_that_points_to_itself_is_read_once() -> None:
    data = tiff(directory(*[(number, 4, 1, 8) for number in POINTERS], (271, 2, 4, 0x6F6F46)))
    reader = CountedReader(data)
    assert from_tiff(reader) is not None
    assert reader.calls < 12


def test_values_that_overlap_give_a_bounded_block() -> None:
    megabytes = 3 * 2**20
    entries = [(number, 7, megabytes, 0) for number in range(50_000, 50_040)]
    main = directory((EXIF, 4, 1, 26))
    data = tiff(main, directory(*entries)).ljust(megabytes, b"x")
    block = from_tiff(CountedReader(data))
    assert block is not None
    assert megabytes < len(block) <= 17 * 2**20


def test_a_cancel_ends_the_reading_of_exif() -> None:
    def cancelled() -> None:
        raise JobError(ErrorCode.CANCELLED, "the job was cancelled")

    reader = CountedReader(bomb(40))
    with pytest.raises(JobError) as caught:
        from_tiff(reader, cancelled)
    assert caught.value.code is ErrorCode.CANCELLED
    assert reader.calls <= 3


def test_the_first_of_two_tags_with_one_number_counts() -> None:
    data = tiff(directory((271, 2, 4, 0x6F6F46), (271, 2, 4, 0x726142)))
    block = from_tiff(CountedReader(data))
    assert block is not None
    assert b"Foo" in block
    assert b"Bar" not in block


entries = st.tuples(
    st.sampled_from([*POINTERS, MAKER_NOTE, 254, 259, 262, 271, 282, 330, 513, 514]),
    st.integers(0, 18),
    st.integers(0, 40) | st.integers(0, 2**32 - 1),
    st.integers(0, 400) | st.integers(0, 2**32 - 1),
)


@settings(max_examples=40)
@given(st.lists(st.lists(entries, max_size=12), max_size=6), st.binary(max_size=40))
def test_any_tiff_is_read_in_steps_that_follow_its_length(
    directories: list[list[tuple[int, int, int, int]]], rest: bytes
) -> None:
    data = tiff(*(directory(*entries) for entries in directories)) + rest
    most_calls = MOST_DIRECTORIES * (len(data) // ENTRY_BYTES + 3) * 2
    reads: list[Callable[[CountedReader], object]] = [from_tiff, tiff_resolution, check_tiff]
    for read in reads:
        reader = CountedReader(data)
        with suppress(JobError):
            read(reader)
        assert reader.calls <= most_calls
        assert reader.bytes <= most_calls * len(data)
    block = revised(data, width=5, height=5, dpi=72)
    assert block is None or len(block) <= 2 * len(data) + 200
    resolution(data)


@given(st.binary(max_size=400), st.sampled_from(["png", "jpeg", "avif", "gif"]))
def test_any_chunks_are_read_in_steps_that_follow_the_length(data: bytes, kind: str) -> None:
    start = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8", "avif": b"", "gif": b"GIF89a"}[kind]
    reader = CountedReader(start + data)
    walks: dict[str, Callable[[], object]] = {
        "png": lambda: (list(png_chunks(reader)), list(late_png_chunks(reader))),
        "jpeg": lambda: list(jpeg_segments(reader)),
        "avif": lambda: list(boxes_at(reader, b"meta", b"iprp", b"ipco")),
        "gif": lambda: (first_frame(reader), gif_texts(reader)),
    }
    walks[kind]()
    warn_of_left_out(kind, reader, None, lambda _: None)
    with suppress(JobError):
        check_jpeg(reader)
    tagged_profile(kind, reader, is_gray=False, warn=lambda _: None)
    dots_per_inch(kind, reader, None, lambda _: None)
    assert reader.calls <= 6 * len(data) + 100


@given(st.binary(max_size=200), st.sampled_from([b"zTXt", b"tEXt", b"iTXt", b"eXIf"]))
def test_any_text_of_a_png_is_read_once(text: bytes, kind: bytes) -> None:
    chunk = struct.pack(">I", len(text)) + kind + text + bytes(4)
    reader = CountedReader(b"\x89PNG\r\n\x1a\n" + chunk * 3)
    png_texts(reader, lambda _: None)
    assert reader.bytes <= 4 * len(chunk) * 3


@given(st.binary(max_size=200))
def test_image_resources_are_never_longer_than_their_block(block: bytes) -> None:
    for start in (b"", b"8BIM\4\4\0\0\0\0\0\4"):
        found = list(resources(start + block))
        assert sum(len(one.data) + 12 for one in found) <= len(start + block)


@pytest.mark.parametrize(
    ("start", "piece", "walk"),
    [
        (b"\x89PNG\r\n\x1a\n", b"\0\0\0\0tEXt\0\0\0\0", png_chunks),
        (b"\xff\xd8", b"\xff\xe1\0\x02", jpeg_segments),
        (b"", b"\0\0\0\x08free", boxes_at),
    ],
)
def test_a_walk_through_empty_pieces_ends(
    start: bytes, piece: bytes, walk: Callable[[CountedReader], object]
) -> None:
    reader = CountedReader(start + piece * 20_000)
    list(walk(reader))  # type: ignore[call-overload] # each of them is an iterator
    assert reader.calls <= 1002


def test_a_gif_of_nothing_but_comments_ends() -> None:
    reader = CountedReader(b"GIF89a" + bytes(7) + b"\x21\xfe" + b"\1x" * 200_000)
    assert first_frame(reader) is None
    assert reader.calls <= 70_000


@pytest.mark.parametrize(
    "piece",
    [b"<xmp:Thumbnails>", b"tiff:Orientation", b"tiff:Orientation=", b'tiff:Orientation="1',
     b"tiff:Orientation>" + b"1" * 90, b"exif:PixelXDimension" + b" " * 90],
)  # fmt: skip
def test_xmp_is_searched_once_for_each_name(piece: bytes) -> None:
    xmp = SearchedBytes(piece * (128 * 1024 // len(piece)))
    assert Metadata(xmp=xmp).resized(10, 10, 300).xmp is xmp
    assert 0 < xmp.searched <= 10 * len(xmp)


@given(st.lists(st.sampled_from([
    "tiff:Orientation", "tiff:XResolution", "x", "=", '"', "1", "/", " ", ">", "<",
    "<xmp:Thumbnails>", "</xmp:Thumbnails>",
]), max_size=40))  # fmt: skip
def test_any_xmp_keeps_its_size_but_for_numbers_and_thumbnails(pieces: list[str]) -> None:
    xmp = SearchedBytes("".join(pieces).encode())
    found = Metadata(xmp=xmp).resized(10, 10, 300).xmp or b""
    assert len(found) <= len(xmp) + len(b"3000000/10000") * xmp.count(b"tiff:")
    assert b"<xmp:Thumbnails></xmp:Thumbnails>" not in found
    assert xmp.searched <= 10 * len(xmp)


def test_a_profile_with_a_forged_count_of_tags_is_left_out() -> None:
    count = 200_000
    size = 132 + 12 * count
    head = struct.pack(">I", size).ljust(36, b"\0") + b"acsp"
    profile = head.ljust(128, b"\0") + struct.pack(">I", count) + bytes(12 * count)
    assert usable(profile) is None


@pytest.mark.parametrize("piece", [b"<!-- -->", b"<?x?>", b"<!", b"<!doctype ", b"<a:", b" ", b"<"])
def test_markup_of_any_repetition_has_a_kind(piece: bytes) -> None:
    assert kind_of(b"<" + piece * (16_000 // len(piece))) is not None


def test_texts_that_inflate_without_end_are_tried_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("upscaled_imaging.pngtext._LONGEST_BYTES", 2**16)
    packed = zlib.compress(bytes(2**22))
    body = b"zTXt" + b"Comment\0\0" + packed
    chunk = struct.pack(">I", len(body) - 4) + body + bytes(4)
    reader = CountedReader(b"\x89PNG\r\n\x1a\n" + chunk * 60)
    warnings: list[str] = []
    assert png_texts(reader, warnings.append).texts == ()
    assert warnings == ["60 of the input's texts are broken or too long: left out"]
    headers = 2 * 61 * 8  # read twice: for chunks before the pixels, and for those behind
    assert 8 * len(packed) < reader.bytes - headers < 9 * len(chunk)
