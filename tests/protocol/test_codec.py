"""Lines to messages and back."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from upscaled_protocol.codec import (
    decode_host_message,
    decode_worker_message,
    encode,
    unknown_fields,
)
from upscaled_protocol.envelope import METHODS
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import (
    Accepted,
    CropInfo,
    Error,
    EsrganJob,
    FakeJob,
    HealthReport,
    HostMessages,
    Progress,
    Result,
    Size,
    Status,
    Timings,
)

FINE_JOB = {"job_id": "1", "method": "esrgan", "config": {"image_path": "a.png"}}


def line(**changes: Any) -> bytes:
    """`FINE_JOB` with other fields; None takes one away."""
    fields = FINE_JOB | changes
    return orjson.dumps({name: value for name, value in fields.items() if value is not None})


def refusal(text: bytes) -> JobError:
    with pytest.raises(JobError) as refused:
        decode_host_message(text)
    return refused.value


# --- what hosts send --------------------------------------------------------------------------


def test_a_job_without_a_type_is_a_job() -> None:
    job = decode_host_message(line())
    assert isinstance(job, EsrganJob)
    assert job == decode_host_message(line(type="job"))
    assert job.config.image_path == "a.png"


def test_a_job_with_only_required_fields_has_the_documented_defaults() -> None:
    job = decode_host_message(b'{"job_id":"1","method":"flux","config":{"image_path":"a.png"}}')
    assert not isinstance(job, FakeJob)
    assert job.model_dump(exclude_none=True) == {
        "type": "job",
        "job_id": "1",
        "priority": 0,
        "max_attempts": 2,
        "attempt": 1,
        "method": "flux",
        "config": {
            "image_path": "a.png",
            "output_base64": False,
            "crop": "none",
            "tile_size": 512,
            "model": "flux1-dev-Q8_0",
            "upscale_model": "4x-UltraSharp",
            "denoise": 0.2,
            "steps": 20,
            "guidance": 3.5,
            "prompt": "",
            "seed": 0,
        },
    }


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ({}, "auto"),
        ({"model": "4x-AnimeSharp"}, "4x-AnimeSharp"),
        ({"upscale_model": "4x-UltraSharp"}, "4x-UltraSharp"),
        ({"upscale_model": None}, "auto"),
        ({"upscale_model": "4x-UltraSharp", "model": "4x-AnimeSharp"}, "4x-AnimeSharp"),
    ],
)
def test_an_esrgan_model_may_be_named_as_flux_names_it(
    config: dict[str, str | None], model: str
) -> None:
    job = decode_host_message(line(config={"image_path": "a.png", **config}))
    assert isinstance(job, EsrganJob)
    assert job.config.model == model


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        (b"", ErrorCode.INVALID_JSON, "the line is not JSON"),
        (b"ready", ErrorCode.INVALID_JSON, "the line is not JSON"),
        (b'{"job_id":"1"', ErrorCode.INVALID_JSON, "the line is not JSON"),
        (b'{"job_id":"\xff"}', ErrorCode.INVALID_JSON, "the line is not JSON"),
        (b'{"job_id":"\\ud800"}', ErrorCode.INVALID_JOB, "job_id must be a string"),
        (
            line(config={"image_path": "CUT"}).replace(b"CUT", b"\\ud83d.png"),
            ErrorCode.INVALID_JOB,
            "config.image_path: half a surrogate pair is no text",
        ),
        (
            b'{"job_id":"1","method":"fake","config":{"output_text":"\\udce9"}}',
            ErrorCode.INVALID_JOB,
            "config.output_text: half a surrogate pair is no text",
        ),
        (b'{"type":"health","request_id":"\\udce9"}', ErrorCode.INVALID_JOB, "request_id must be"),
        (b'{"a":NaN}', ErrorCode.INVALID_JSON, "the line is not JSON"),
        (b'[{"job_id":"1"}]', ErrorCode.INVALID_JSON, "the line is not a JSON object"),
        (b'"ready"', ErrorCode.INVALID_JSON, "the line is not a JSON object"),
        (line(method=None), ErrorCode.INVALID_JOB, "method is missing"),
        (line(method="ESRGAN"), ErrorCode.UNKNOWN_METHOD, 'unknown method "ESRGAN"'),
        (line(type="work"), ErrorCode.UNKNOWN_METHOD, 'unknown message type "work"'),
        (line(config=None), ErrorCode.INVALID_JOB, "config is missing"),
        (line(config=[]), ErrorCode.INVALID_JOB, "config must be an object"),
        (line(config={}), ErrorCode.INVALID_JOB, "exactly one of image_path, image_base64"),
        (
            line(config={"image_path": "a.png", "sclae": 2}),
            ErrorCode.INVALID_JOB,
            'config has no field "sclae"',
        ),
        (
            line(config={"image_path": "a.png", "tile": 12}),
            ErrorCode.INVALID_JOB,
            'config has no field "tile"; did you mean "tile_size"?',
        ),
        (
            line(config={"image_path": "a.png", "upscale_factor": "4"}),
            ErrorCode.INVALID_JOB,
            "config.upscale_factor: Input should be a valid number",
        ),
        (
            line(config={"image_path": "a.png", "target_width": 4, "target_width_inches": 1}),
            ErrorCode.INVALID_JOB,
            "in inches or in pixels, not both",
        ),
        (
            line(config={"image_path": "a.png", "output_path": "b", "output_base64": True}),
            ErrorCode.INVALID_JOB,
            "give only one of output_path, output_base64, output_url",
        ),
        (b'{"type":"cancel"}', ErrorCode.INVALID_JOB, "job_id must be a string"),
        (b'{"type":"replay","job_ids":"1"}', ErrorCode.INVALID_JOB, "job_ids"),
    ],
)
def test_a_bad_line_is_refused_in_one_sentence_that_says_what_is_wrong(
    text: bytes, code: ErrorCode, sentence: str
) -> None:
    error = refusal(text)
    assert error.code is code
    assert sentence in error.message
    assert "\n" not in error.message


def test_every_wrong_field_is_named_in_one_sentence() -> None:
    error = refusal(
        line(config={"image_path": "a.png", "sclae": 2, "quality": 101, "crop": "middle"})
    )
    assert error.job_id == "1"
    for name in ('"sclae"', "config.quality", "config.crop"):
        assert name in error.message


def test_unknown_fields_of_a_job_are_named_and_not_refused() -> None:
    assert unknown_fields(decode_host_message(line(user="u1", color="red"))) == [
        '"color"',
        '"user"',
    ]
    assert unknown_fields(decode_host_message(line())) == []


# What would have been gigabytes: the limits below keep a line's cost near its own size.
MANY = 200_000


@pytest.mark.parametrize(
    "text",
    [
        line(config={f"k{number}": 1 for number in range(MANY)}),
        line(config={"image_path": "a.png", "k" * MANY: 1}),
        line(config={"image_path": "a.png", "crop": "k" * MANY}),
        line(config=[[]] * MANY),
        b'{"type":"replay","job_ids":[%s]}' % b",".join([b"1"] * MANY),
        b'{"type":"%s"}' % (b"k" * MANY),
    ],
    ids=["many fields", "long field", "long value", "list", "many ids", "long type"],
)
def test_a_large_bad_line_gets_a_small_answer(text: bytes) -> None:
    assert len(refusal(text).message) < 400


def test_a_job_with_many_unknown_fields_warns_of_a_few() -> None:
    job = decode_host_message(line(**{f"k{number:06}" * 100: 1 for number in range(MANY // 100)}))
    assert len(unknown_fields(job)) == 5
    assert all(len(name) < 100 for name in unknown_fields(job))


# --- fuzz ---------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda values: (
        st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4)
    ),
    max_leaves=12,
)
# A job has ten of them: to make deep ones takes far longer than to decode them.
FIELD_VALUES = (
    SCALARS
    | st.lists(SCALARS, max_size=2)
    | st.dictionaries(st.text(max_size=8), SCALARS, max_size=2)
)
CONFIG_FIELDS = sorted(
    {
        name
        for method in METHODS
        for name in TypeAdapter(HostMessages).json_schema()["$defs"][f"{method.title()}Config"][
            "properties"
        ]
    }
)
NEARLY_JOBS = st.fixed_dictionaries(
    {
        "job_id": st.just("1") | FIELD_VALUES,
        "method": st.sampled_from(METHODS) | FIELD_VALUES,
        "config": st.dictionaries(st.sampled_from(CONFIG_FIELDS), FIELD_VALUES, max_size=6)
        | JSON_VALUES,
    },
    optional=dict.fromkeys(
        ("type", "priority", "timeout_s", "max_attempts", "attempt", "job_ids", "é"), FIELD_VALUES
    ),
)


def decodes_or_is_refused(text: bytes) -> None:
    try:
        sentence = repr(type(decode_host_message(text)))
    except JobError as error:
        sentence = error.message
    assert 0 < len(sentence) < 2000


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_arbitrary_bytes_raise_nothing_but_a_job_error(text: bytes) -> None:
    decodes_or_is_refused(text)


@settings(max_examples=500)
@given(JSON_VALUES | NEARLY_JOBS)
def test_arbitrary_json_raises_nothing_but_a_job_error(value: Any) -> None:
    decodes_or_is_refused(json.dumps(value).encode())


@settings(max_examples=300)
@given(NEARLY_JOBS, st.data())
def test_a_damaged_job_raises_nothing_but_a_job_error(value: Any, data: st.DataObject) -> None:
    text = bytearray(json.dumps(value).encode())
    position = data.draw(st.integers(0, len(text) - 1))
    text[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    decodes_or_is_refused(bytes(text))


@pytest.mark.parametrize("depth", [10, 900, 1020, 100_000])
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("place", [b"%s", b'{"type":"job","config":%s}', b'{"colour":%s}'])
def test_deep_nesting_raises_nothing_but_a_job_error(
    depth: int, brackets: tuple[bytes, bytes], place: bytes
) -> None:
    nested = brackets[0] * depth + b"1" + brackets[1] * depth
    decodes_or_is_refused(place % nested)
    fine = b'{"job_id":"1","method":"fake","config":{"model":%s}}'
    decodes_or_is_refused(fine % nested)
    decodes_or_is_refused(b'{"job_id":"1","method":"fake","colour":%s}' % nested)


# --- what workers send --------------------------------------------------------------------------

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SECONDS = st.floats(0, 1e9)
COUNTS = st.integers(0, 2**53)
SIZES = st.builds(Size, width=st.integers(1, 10**6), height=st.integers(1, 10**6))
WORKER_MESSAGES = st.one_of(
    st.builds(Accepted, job_id=IDS, position=COUNTS),
    st.builds(
        Progress,
        job_id=IDS,
        progress=st.floats(0, 100),
        stage=TEXTS,
        done=st.none() | COUNTS,
        total=st.none() | COUNTS,
        eta_s=st.none() | SECONDS,
        budget_s=st.none() | st.floats(0.001, 1e6),
    ),
    st.builds(
        Result,
        job_id=IDS,
        output_path=st.none() | TEXTS,
        input_size=st.none() | SIZES,
        output_size=st.none() | SIZES,
        crop_info=st.none()
        | st.builds(
            CropInfo, direction=st.sampled_from(["vertical", "horizontal"]), amount_px=COUNTS
        ),
        processing_time=SECONDS,
        timings=st.builds(Timings, queue=SECONDS, inference=SECONDS),
        warnings=st.lists(TEXTS, max_size=3),
    ),
    st.builds(
        Error,
        job_id=st.none() | IDS,
        error=TEXTS,
        code=st.sampled_from(ErrorCode),
        retryable=st.booleans(),
    ),
    st.builds(Status, message=st.just("ready"), methods=st.lists(TEXTS, max_size=3)),
    st.builds(HealthReport, status=st.just("ok"), queue_size=COUNTS, uptime_s=SECONDS),
)


@given(WORKER_MESSAGES)
def test_every_worker_message_comes_back_from_its_line(message: BaseModel) -> None:
    text = encode(message)
    assert text.count(b"\n") == 1
    assert text.endswith(b"\n")
    assert decode_worker_message(text) == message


def test_a_line_leaves_out_what_is_none_but_keeps_a_null_job_id() -> None:
    error = Error(job_id=None, error="no", code=ErrorCode.INVALID_JSON, retryable=False)
    assert encode(error) == (
        b'{"type":"error","job_id":null,"error":"no","code":"invalid_json","retryable":false}\n'
    )


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"Loading model...",
        b'{"type":"progress","job_id":"1","progress":"50","stage":"tile"}',
        b'{"type":"progress","job_id":"1","progress":101,"stage":"tile"}',
        b'{"type":"progress","job_id":"1","progress":NaN,"stage":"tile"}',
        b'{"type":"accepted","job_id":"1","position":0,"colour":"red"}',
        b'{"type":"error","error":"no","code":"internal","retryable":false}',
        b'{"type":"error","job_id":"1","error":"no","code":"oops","retryable":false}',
        b'{"type":"job","job_id":"1"}',
    ],
)
def test_a_line_that_is_no_worker_message_is_refused(text: bytes) -> None:
    with pytest.raises(ValidationError):
        decode_worker_message(text)


def test_a_number_that_json_cannot_hold_never_reaches_a_line() -> None:
    with pytest.raises(ValidationError):
        Progress(job_id="1", progress=1, stage="tile", eta_s=float("inf"))
    with pytest.raises(ValidationError):
        Result(job_id="1", processing_time=1, timings=Timings(), scale_factor=float("nan"))
