"""The id of a line that cannot be read as a whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled_protocol import jobid
from upscaled_protocol.jobid import JobIdReader, read_job_id
from upscaled_protocol.lines import decode_line, encode_line

NAMES = st.sampled_from(["job_id", "job", "config", "x", 'a"job_id', "", "é"])
TEXT = st.text(max_size=6) | st.sampled_from(
    ['","job_id":"no', "\\", '"', "{[", "\ud83d", "\\u0041"]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(NAMES, one, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=5)


def expected(fields: dict[str, Any]) -> Any:
    value = fields.get("job_id")
    return None if isinstance(value, dict | list) else value


def in_parts(line: bytes, size: int) -> Any:
    reader = JobIdReader()
    for start in range(0, len(line), size):
        reader.feed(line[start : start + size])
    return reader.value


@given(OBJECTS, st.integers(1, 9))
def test_a_whole_line_has_the_id_that_a_json_parser_finds(
    fields: dict[str, Any], size: int
) -> None:
    line = encode_line(fields)
    assert read_job_id(line) == expected(decode_line(line))
    assert in_parts(line, size) == read_job_id(line)


@given(st.binary(max_size=60) | OBJECTS.map(encode_line), st.integers(0, 60), st.integers(1, 9))
def test_any_bytes_cut_anywhere_are_read_the_same_in_any_parts(
    data: bytes, end: int, size: int
) -> None:
    assert in_parts(data[:end], size) == read_job_id(data[:end])


@pytest.mark.parametrize(
    "line",
    [
        b'{"job_id":"1","method":"fake"',
        b'{"job_id":"1","config":{"output_text":"cut o',
        b' \t{ "job_id" : "1" , ]',
        rb'{"\u006aob_id":"\u0031",}',
        b'{"job_id":"0","job_id":"1",}',
        b'{"note":"caf\xe9","job_id":"1"}',
        b'{"priority":NaN,"job_id":"1"}',
        b'{"timeout_s":-1e999,"job_id":"1"}',
        b'{"config":{"job_id":"2","a":["job_id",{"job_id":"3"}]},"job_id":"1"',
        b'{"note":"a "quote" and","x":",\\"job_id\\":\\"2\\"","job_id":"1"}'.replace(
            b'"note"', b'"job_id":"1","note"'
        ),
        b'{"job_id":"1"}{"job_id":"2"}',
        b'{"config":%b1%b,"job_id":"1"}' % (b"[" * 200_000, b"]" * 200_000),
    ],
)
def test_the_id_of_a_broken_line_is_read(line: bytes) -> None:
    assert read_job_id(line) == "1"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b'"job_id":"1"',
        b'[{"job_id":"1"}]',
        b'{"job_id":"1',
        b'{"job_id":"caf\xe9"}',
        b'{"job_id":"%b"}' % (b"x" * 5000),
        b'{"config":{"job_id":"1"',
        b'{"config":%b,"job_id":"1"' % (b"[" * 200_000),
        b"{'job_id': '1'}",
        b'{"job_id":["1"]}',
    ],
)
def test_no_id_is_made_up(line: bytes) -> None:
    assert read_job_id(line) is None


@pytest.mark.parametrize(
    "costly",
    [b'{"a":', b"[{},", b'["a",', b'"a":1,', b"[]", b'{"a":[', b'"\\"",', b"{ "],
)
def test_no_line_costs_more_than_the_bound(costly: bytes) -> None:
    reader = JobIdReader()
    for _ in range(40):
        reader.feed(b'{"a":[' + costly * 4000)
    assert reader.steps <= jobid.MAX_STEPS + 1
