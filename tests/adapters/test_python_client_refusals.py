"""What the Python client refuses to send, with its code, before a daemon has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echo_daemon import TIMEOUT_S, echo, run, submit
from upscaled import (
    DaemonGoneError,
    DeadlineExceededError,
    InvalidJobError,
    ShuttingDownError,
    Upscaler,
)
from upscaled.jobline import line_of
from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES


@pytest.fixture
def up() -> Iterator[Upscaler]:
    with echo() as client:
        yield client


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


SAID = st.text() | st.integers() | st.floats() | st.booleans() | st.none()
BAD_VALUES: list[Any] = [
    *(b"bytes", {"a set"}, Path("a path"), object(), 10**400, -(10**5000), float("nan"), 1j),
    *(nested(900), nested(1020), nested(1200), nested(100_000), cyclic(), {None: 1}),
    *("\ud83d", "\ude00", "\udce9", "caf\udcc3\udca9", {("a", "b"): 1}, {"\ud83d": 1}),
]
# By index: some of them cannot even be shown.
HOSTILE = st.integers(0, len(BAD_VALUES) - 1).map(lambda index: BAD_VALUES[index])
VALUES = st.recursive(SAID | HOSTILE, lambda inner: st.lists(inner) | st.dictionaries(SAID, inner))
IDS = SAID | HOSTILE | st.text(min_size=1, max_size=130) | st.sampled_from(["x" * 128, "é" * 129])


@given(job_id=IDS, value=VALUES, timeout_s=st.none() | SAID | HOSTILE)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_hostile_job_is_refused_before_it_is_sent_or_gets_its_end(
    up: Upscaler, job_id: Any, value: Any, timeout_s: Any
) -> None:
    job = {"job_id": job_id, "method": "fake", "config": {"value": value}, "timeout_s": timeout_s}
    try:
        call = up.submit_job(job)
    except InvalidJobError:
        return
    try:
        assert call.result(TIMEOUT_S).job_id == call.job_id
    except DeadlineExceededError:
        assert timeout_s is not None


@pytest.mark.parametrize(
    ("job", "code"),
    [
        ({"job_id": 5}, "invalid_job"),
        ({"job_id": b"a"}, "invalid_job"),
        ({"job_id": ""}, "invalid_job"),
        ({"job_id": "x" * 129}, "invalid_job"),
        ({"job_id": "cut \ud83d"}, "invalid_job"),
        ({"job_id": "caf\udce9"}, "invalid_job"),
        ({"method": None}, "invalid_job"),
        ({"method": "esrgan", "config": None}, "invalid_job"),
        ({"timeout_s": 0}, "invalid_job"),
        ({"timeout_s": True}, "invalid_job"),
        ({"config": {"prompt": "cut \ud83d"}}, "invalid_job"),
        ({"config": {"step_s": float("inf")}}, "invalid_job"),
        ({"config": {"image_path": Path("a.png")}}, "invalid_job"),
        ({"config": {"x": cyclic()}}, "invalid_job"),
        ({"type": "cancel"}, "invalid_job"),
        ({"config": {"x": nested(1025)}}, "invalid_json"),
        ({"config": {"x": nested(100_000)}}, "invalid_json"),
        ({"config": {"x": 10**400}}, "invalid_json"),
        ({"config": {"x": "x" * DEFAULT_LINE_LIMIT_BYTES}}, "line_too_long"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_code(
    up: Upscaler, job: dict[str, Any], code: str
) -> None:
    with pytest.raises(InvalidJobError) as refused:
        up.submit_job({"method": "fake", "config": {}} | job)
    assert refused.value.code == code
    assert up.pid is None  # not even a daemon was started


def test_a_line_of_the_very_limit_is_sent() -> None:
    room = DEFAULT_LINE_LIMIT_BYTES - len(line_of({"x": ""})) + 1
    assert len(line_of({"x": "x" * room})) == DEFAULT_LINE_LIMIT_BYTES + 1  # with its newline
    with pytest.raises(InvalidJobError):
        line_of({"x": "x" * (room + 1)})


def test_a_file_name_that_is_not_utf_8_is_escaped_byte_for_byte() -> None:
    line = line_of({"image_path": os.fsdecode(b"caf\xe9 \xf0\x9f\x98\x80.png")})
    assert line == b'{"image_path":"caf\\udce9 \xf0\x9f\x98\x80.png"}\n'


def test_an_id_in_flight_is_not_used_twice(up: Upscaler) -> None:
    submit(up, "1", hold=True)
    with pytest.raises(InvalidJobError) as refused:
        submit(up, "1")
    assert refused.value.code == "duplicate_job"


def test_a_closed_client_takes_no_job() -> None:
    with echo() as up:
        run(up)
    with pytest.raises(ShuttingDownError, match="closed"):
        submit(up)
    with pytest.raises(DaemonGoneError, match="closed"):
        up.health()
    with pytest.raises(DaemonGoneError, match="closed"):
        echo_closed().start()


def echo_closed() -> Upscaler:
    up = echo()
    up.close()
    return up


def test_a_daemon_is_started_by_the_first_call_alone(up: Upscaler) -> None:
    assert up.pid is None
    run(up)
    assert up.pid is not None
