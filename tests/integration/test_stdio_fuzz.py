"""Fuzzed input against real daemons: each bad line gets one error, and the next job works."""

from __future__ import annotations

import codecs
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from upscaled_protocol.codec import decode_host_message
from upscaled_protocol.errors import JobError

MIB = 1024 * 1024

GOOD_JOB = b'{"job_id":"x","method":"fake","priority":1,"config":{"steps":2,"model":"\xc3\xa9"}}'
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=5),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3)
    ),
    max_leaves=8,
)


# They name an encoding, whose lines are not answered one by one.
MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_bad(line: bytes) -> bool:
    if b"\n" in line or not line.strip() or b"\0" in line or line.startswith(MARKS):
        return False
    try:
        decode_host_message(line)
    except JobError:
        return True
    return False


@st.composite
def damaged_jobs(draw: st.DrawFn) -> bytes:
    """A good job with a few bytes cut out or overwritten."""
    start = draw(st.integers(0, len(GOOD_JOB) - 1))
    length = draw(st.integers(0, 5))
    return GOOD_JOB[:start] + draw(st.binary(max_size=3)) + GOOD_JOB[start + length :]


@st.composite
def wrong_jobs(draw: st.DrawFn) -> bytes:
    """A good job with values of any type in any of its places."""
    fields: dict[str, Any] = orjson.loads(GOOD_JOB)
    names = st.sampled_from(["job_id", "method", "config", "priority", "timeout_s", "type"])
    fields |= draw(st.dictionaries(names, JSON_VALUES, min_size=1, max_size=3))
    return orjson.dumps(fields)


def nested(depth: int, brackets: tuple[bytes, bytes], place: bytes) -> bytes:
    return place % (brackets[0] * depth + b"1" + brackets[1] * depth)


BAD_LINES = st.one_of(
    st.binary(min_size=1, max_size=60),
    st.text(min_size=1, max_size=60).map(str.encode),
    JSON_VALUES.map(orjson.dumps),
    damaged_jobs(),
    wrong_jobs(),
    st.builds(
        nested,
        st.sampled_from([3, 500, 1020, 5000]),
        st.sampled_from([(b"[", b"]"), (b'{"a":', b"}")]),
        st.sampled_from(
            [b"%s", b'{"type":%s}', b'{"job_id":"x","method":%s}', b'{"method":"fake","config":%s}']
        ),
    ),
).filter(is_bad)


def errors_of(daemon: Any) -> list[dict[str, Any]]:
    return [line for line in daemon.lines if line["type"] == "error"]


@pytest.fixture(params=["worker", "supervisor"])
def daemon(request: pytest.FixtureRequest) -> Any:
    """A real daemon with the fake engine."""
    return request.getfixturevalue(f"start_{request.param}")()


def test_each_bad_line_gets_one_error_and_the_job_after_it_works(daemon: Any) -> None:
    sent_lines: list[bytes] = []
    answered = 0

    # Without shrinking: the daemon keeps its state, so an example's failure would not come again.
    @settings(
        deadline=None,
        max_examples=200,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.lists(BAD_LINES, min_size=1, max_size=10))
    def send(bad_lines: list[bytes]) -> None:
        nonlocal answered
        sent_lines.extend(bad_lines)
        answered += 1
        job_id = f"good {answered}"
        daemon.send(*(line + b"\n" for line in bad_lines))
        daemon.job(job_id)
        assert daemon.wait_terminal(job_id)["type"] == "result", bad_lines

    send()
    # A supervisor's exit status is 1 if a line was refused.
    assert daemon.finish() == (1 if "upscaled_supervisor" in daemon.process.args else 0)
    assert len(errors_of(daemon)) == len(sent_lines)
    assert sum(line["type"] == "result" for line in daemon.lines) == answered


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"x" * (40 * MIB), "line_too_long"),
        (b'{"job_id":"%s","method":"fake"}' % (b"x" * (40 * MIB)), "line_too_long"),
        (b" " * (40 * MIB), "line_too_long"),
        (b"x" * (30 * MIB), "invalid_json"),
        (b"[" * (30 * MIB), "invalid_json"),
        (b"\xff" * (30 * MIB), "invalid_json"),
        (b'{"job_id":"%s","method":"fake"}' % (b"x" * (30 * MIB)), "invalid_job"),
        (b'{"type":"%s"}' % (b"x" * (30 * MIB)), "unknown_method"),
        (
            b'{"job_id":"many","method":"fake","config":{%s}}'
            % b",".join(b'"k%d":0' % number for number in range(500_000)),
            "invalid_job",
        ),
        (b'{"type":"replay","job_ids":[%s]}' % b",".join([b"0"] * 1_000_000), "invalid_job"),
    ],
    ids=[
        "40 MiB",
        "40 MiB of id",
        "40 MiB of blanks",
        "30 MiB",
        "30 MiB of brackets",
        "30 MiB of no UTF-8",
        "30 MiB of id",
        "30 MiB of type",
        "many fields",
        "many ids",
    ],
)
def test_a_huge_bad_line_gets_one_small_error_and_the_job_after_it_works(
    daemon: Any, line: bytes, code: str
) -> None:
    daemon.send(line, b"\n")
    daemon.job("good")
    assert daemon.wait_terminal("good")["type"] == "result"
    daemon.finish()
    assert [error["code"] for error in errors_of(daemon)] == [code]
    assert max(map(len, daemon.raw)) < 2000


def test_a_last_line_that_is_cut_off_gets_its_error_and_the_jobs_before_it_are_finished(
    daemon: Any,
) -> None:
    daemon.job("good")
    daemon.send(b'{"job_id":"half","meth')
    daemon.finish()
    assert [error["code"] for error in errors_of(daemon)] == ["invalid_json"]
    assert daemon.wait_terminal("good")["type"] == "result"
    assert daemon.lines[-1]["message"] == "stopped"


def test_lines_that_come_byte_by_byte_are_the_same_lines(daemon: Any) -> None:
    text = b'nonsense\r\n{"job_id":"a","method":"fake"}\n\n{"type":"health"}\n'
    for position in range(len(text)):
        daemon.send(text[position : position + 1])
    assert daemon.wait_terminal("a")["type"] == "result"
    daemon.finish()
    assert [error["code"] for error in errors_of(daemon)] == ["invalid_json"]
    assert sum(line["type"] == "health" for line in daemon.lines) == 1
