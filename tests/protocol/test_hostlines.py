"""What a host writes, cut into lines and into errors for what is no line."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.hostlines import HostLines

JOBS = '{"job_id":"1","method":"fake"}\n{"job_id":"é😀","method":"fake"}\r\n'
ONE, TWO = (line.encode() for line in JOBS.split())


def lines_of(stream: bytes, size: int = 65536, limit_bytes: int = 1000) -> list[bytes | JobError]:
    lines = HostLines(limit_bytes)
    parts = [stream[start : start + size] for start in range(0, len(stream), size)]
    return [line for part in parts for line in lines.feed(part)] + lines.end()


def answers(stream: bytes, size: int = 65536) -> list[object]:
    """The lines; of an error its code and its id."""
    return [
        (line.code, line.job_id or line.refused_job_id) if isinstance(line, JobError) else line
        for line in lines_of(stream, size)
    ]


@pytest.mark.parametrize("size", [1, 7, 65536])
@pytest.mark.parametrize(
    "stream",
    [
        codecs.BOM_UTF8 + JOBS.encode(),
        codecs.BOM_UTF8 + ONE + b"\n" + codecs.BOM_UTF8 * 2 + TWO,
        codecs.BOM_UTF8 + b"\n" + ONE + b"\n" + codecs.BOM_UTF8 + b"\r\n" + TWO + b"\n",
        codecs.BOM_UTF8 + b"  \n" + JOBS.encode() + codecs.BOM_UTF8,
    ],
)
def test_a_byte_order_mark_before_any_line_is_skipped(stream: bytes, size: int) -> None:
    assert answers(stream, size) == [ONE, TWO]


@pytest.mark.parametrize("size", [1, 3, 65536])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("begin", ["", "\r\n", " ", "\n\n"])
def test_utf_16_is_named_once(encoding: str, begin: str, size: int) -> None:
    text = begin + JOBS + '{"job_id":"3","note":"ਊ 䄊 ਊਊ"}\n' * 3
    (error,) = lines_of(text.encode(encoding), size)
    assert isinstance(error, JobError)
    assert error.code is ErrorCode.INVALID_JSON
    assert "UTF-16" in error.message
    assert "UTF-8" in error.message
    (error,) = lines_of((codecs.BOM_UTF16_BE + text.encode("utf-16-be")), size, limit_bytes=30)
    assert isinstance(error, JobError)


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-le", "utf-32-be"])
def test_utf_32_is_named_too(encoding: str) -> None:
    (error,) = lines_of(JOBS.encode(encoding))
    assert isinstance(error, JobError)
    assert "UTF-32" in error.message


def test_joined_files_lose_only_what_is_utf_16() -> None:
    stream = ONE + b"\n" + JOBS.encode("utf-16") + b"\n" + TWO + b"\n"
    assert answers(stream) == [ONE, (ErrorCode.INVALID_JSON, None), TWO]


@pytest.mark.parametrize(
    "noise", [b"\xff\xfeab", b"\xfe\xff!", b"\0" * 50, b"\0{}", b"{\0}", b"a\0b\0", b"\xff\xfe\xff"]
)
def test_noise_that_is_not_utf_16_hides_no_later_line(noise: bytes) -> None:
    assert answers(noise + b"\n" + noise + b"\n" + ONE) == [noise, noise, ONE]


@given(st.lists(st.binary(max_size=12)), st.integers(1, 9))
def test_any_chunking_of_any_stream_gives_the_same_lines(lines: list[bytes], size: int) -> None:
    stream = b"\n".join(lines)
    assert answers(stream, size) == answers(stream)


@pytest.mark.parametrize("size", [1, 65, 65536])
@pytest.mark.parametrize(
    ("line", "job_id"),
    [
        (b'{"job_id":"1","config":{"image_base64":"%b"}}', "1"),
        (b'{"config":{"image_base64":"%b","job_id":"2"},"job_id":"1"}', "1"),
        (b'{"job_id":"1","config":{"image_base64":"%b', "1"),
        (b" " * 20 + b'{"job_id":"1","config":{"image_base64":"%b"}}', "1"),
        (b'{"job_id":12,"config":{"image_base64":"%b"}}', "12"),
        (b'{"config":{"image_base64":"%b"}}', None),
    ],
)
def test_a_line_over_the_limit_is_answered_with_its_id(
    line: bytes, job_id: str | None, size: int
) -> None:
    stream = b"\n".join([ONE, line % (b"A" * 1000), TWO, line % (b'\\"' * 900)])
    too_long = (ErrorCode.LINE_TOO_LONG, job_id)
    assert answers(stream, size) == [ONE, too_long, TWO, too_long]
