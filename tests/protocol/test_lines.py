"""Bytes to lines and objects to lines."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upscaled_protocol.lines import LineSplitter, decode_line, encode_line

LIMIT = 8
MIB = 1024 * 1024
# A high half before a low one would be a whole character, and is read as that.
JSON_TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text("a\udc80\udcff\udfff")


def lines_of(chunks: list[bytes], limit_bytes: int = LIMIT) -> list[bytes | None]:
    splitter = LineSplitter(limit_bytes)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return lines + splitter.end()


def expected_lines(stream: bytes) -> list[bytes | None]:
    """The same, said the short way for a stream that is there as a whole."""
    lines = [line if len(line) <= LIMIT else None for line in stream.split(b"\n")]
    return [
        line if line is None else line.removesuffix(b"\r")
        for line in lines
        if line is None or line.strip()
    ]


CHUNKS = st.lists(
    st.lists(st.sampled_from([b"a", b"bc", b" ", b"\r", b"\n", b"\r\n", b"0123456"])).map(b"".join)
)


@settings(max_examples=500)
@given(CHUNKS)
def test_any_chunking_of_a_stream_gives_the_same_lines(chunks: list[bytes]) -> None:
    assert lines_of(chunks) == expected_lines(b"".join(chunks))


def test_carriage_returns_and_blank_lines_are_skipped() -> None:
    assert lines_of([b"\n\r\n  \r\none\r\n\ntwo\n\n"]) == [b"one", b"two"]


def test_the_last_line_needs_no_newline() -> None:
    assert lines_of([b"one\ntw", b"o"]) == [b"one", b"two"]
    assert lines_of([b"one\ntwo\r"]) == [b"one", b"two"]


def test_lines_come_out_as_soon_as_they_are_complete() -> None:
    splitter = LineSplitter(LIMIT)
    assert splitter.feed(b"one\ntwo\nthr") == [b"one", b"two"]
    assert splitter.feed(b"ee") == []
    assert splitter.feed(b"\n") == [b"three"]


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 9, 1000])
def test_a_line_over_the_limit_is_reported_once_and_the_next_one_is_whole(chunk_size: int) -> None:
    stream = b"12345678\n123456789\n" + b"x" * 100 + b"\nnext\n"
    chunks = [stream[start : start + chunk_size] for start in range(0, len(stream), chunk_size)]
    assert lines_of(chunks) == [b"12345678", None, None, b"next"]


def peak_bytes(splitter: LineSplitter, chunk: bytes, times: int) -> int:
    tracemalloc.start()
    try:
        for _ in range(times):
            assert splitter.feed(chunk) == []
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_line_of_40_mib_takes_no_more_memory_than_the_limit() -> None:
    splitter = LineSplitter(4 * MIB)
    assert peak_bytes(splitter, b"x" * 65536, 40 * 16) < 10 * MIB
    assert splitter.feed(b"\nnext\n") == [None, b"next"]


def test_a_line_that_comes_a_few_bytes_at_a_time_takes_no_more_memory_than_its_length() -> None:
    splitter = LineSplitter(MIB)
    assert peak_bytes(splitter, b"xyz", 300_000) < 3 * MIB
    assert splitter.feed(b"\n") == [b"xyz" * 300_000]


def test_half_a_surrogate_pair_is_written_escaped_and_read_back() -> None:
    fields = {"error": "cannot read caf\udce9.png: Ürümqi \ud83d", "\udcff": 3}
    line = encode_line(fields)
    assert rb"caf\udce9.png" in line
    assert "Ürümqi".encode() in line
    assert decode_line(line) == json.loads(line) == fields
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


@given(
    st.recursive(
        JSON_TEXT | st.integers(), lambda one: st.lists(one) | st.dictionaries(JSON_TEXT, one)
    )
)
def test_any_text_survives_a_line(value: object) -> None:
    assert decode_line(encode_line({"value": value})) == {"value": value}


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":"\\ud83d","b":NaN}',
        b'{"a":"\\ud83d","b":"\xed\xa0\xbd"}',
        b'{"a":"\\ud83d","b":1',
        b'{"a":"\\ud83d","b":%b1%b}' % (b"[" * 100_000, b"]" * 100_000),
    ],
    ids=["NaN", "no UTF-8", "cut off", "deep"],
)
def test_an_escaped_half_pair_makes_no_other_line_json(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode_line(line)


def test_a_newline_inside_a_value_does_not_end_the_line() -> None:
    assert encode_line({"error": "a\nb\r\u2028c"}).count(b"\n") == 1


def test_a_value_that_json_lacks_is_an_error_unless_it_is_converted() -> None:
    with pytest.raises(TypeError):
        encode_line({"value": object()})
    assert encode_line({"value": object()}, default=lambda _: "thing") == b'{"value":"thing"}\n'
