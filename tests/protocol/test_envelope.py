"""The envelope, which a supervisor reads, against the full models, which a worker reads."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import metadata
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from upscaled_models.registry import known_methods
from upscaled_protocol import messages
from upscaled_protocol.envelope import COMMANDS, METHODS, Method, not_served, open_envelope
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import BaseJob, Health, HostMessages, Trim

HOST_MESSAGES: TypeAdapter[HostMessages] = TypeAdapter(HostMessages)

JSON_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
ODDITIES: st.SearchStrategy[Any] = JSON_SCALARS | st.lists(JSON_SCALARS, max_size=2) | st.just({})

# Mostly what is near the rules' edges: a value that is wrong in every way finds nothing.
TYPES = st.sampled_from(["job", "cancel", "health", "trim", "replay", "shutdown", "Job", ""])
JOB_IDS = st.text(max_size=3) | st.integers(126, 130).map(lambda size: "é" * size)
INTEGERS = (
    st.integers(-3, 3)
    | st.sampled_from([99, 100, 101, 999_999, 1_000_000, 1_000_001, 2**63, 2**64 - 1])
    | st.sampled_from([-1_000_000, -1_000_001, 1.0, 2.5, True])
)
SECONDS = INTEGERS | st.sampled_from([604_800, 604_800.0, 604_800.5, 1e-300, 0.0, -0.0, None])

BASE_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "type": TYPES | ODDITIES,
        "job_id": JOB_IDS | ODDITIES,
        "method": st.sampled_from(METHODS) | ODDITIES,
        "priority": INTEGERS | ODDITIES,
        "timeout_s": SECONDS | ODDITIES,
        "max_attempts": INTEGERS | ODDITIES,
        "attempt": INTEGERS | ODDITIES,
        "request_id": JOB_IDS | ODDITIES,
        "accepted_as": st.integers(63, 66).map(lambda size: "é" * size) | ODDITIES,
        "colour": ODDITIES,
    },
)
GOOD_JOB = st.fixed_dictionaries({"job_id": st.just("1"), "method": st.sampled_from(METHODS)})


def test_the_names_of_messages_and_methods_are_those_of_the_models_and_the_engines() -> None:
    assert tuple(messages.JOBS) == METHODS
    assert tuple(messages.COMMANDS) == COMMANDS
    assert known_methods() == METHODS


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_is_not_served_is_refused_with_its_extra(method: Method) -> None:
    extra = {"flux": "flux", "imagen": "imagen", "face": "faces"}.get(method)
    what = f"'upscaled[{extra}]'" if extra else "--methods"
    assert what in not_served(method, ["b", "a"])
    assert "served: a, b" in not_served(method, ["b", "a"])
    assert extra is None or extra in metadata("upscaled").get_all("Provides-Extra", [])


def accepted_by_models(fields: dict[str, Any]) -> HostMessages | None:
    try:
        return HOST_MESSAGES.validate_python(fields)
    except ValidationError:
        return None


@settings(max_examples=500)
@given(
    start=st.just({}) | GOOD_JOB,
    changes=BASE_FIELDS,
)
def test_envelope_and_models_agree_on_every_base_field(
    start: dict[str, Any], changes: dict[str, Any]
) -> None:
    fields = start | changes
    fields["config"] = {} if fields.get("method") == "fake" else {"image_path": "a.png"}
    line = orjson.dumps(fields)
    message = accepted_by_models(orjson.loads(line))
    try:
        envelope = open_envelope(line)
    except JobError:
        envelope = None
    if message is None or envelope is None:
        assert message is None
        assert envelope is None
        return
    assert envelope.type == message.type
    assert envelope.fields == fields
    if isinstance(message, Health | Trim):
        assert envelope.request_id == message.request_id
    if isinstance(message, BaseJob):
        assert envelope.job_id == message.job_id
        assert envelope.priority == message.priority
        assert envelope.timeout_s == message.timeout_s
        assert envelope.max_attempts == message.max_attempts
        assert envelope.attempt == message.attempt
        assert envelope.method == fields["method"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"job_id":"7","method":"polish","config":{}}',
        b'{"job_id":"7","type":"polish"}',
        b'{"job_id":"7"}',
        b'{"job_id":"7","method":"fake","priority":"high"}',
        b'{"job_id":"7","method":"fake","timeout_s":0}',
    ],
)
def test_a_refused_line_keeps_the_id_that_it_has(line: bytes) -> None:
    with pytest.raises(JobError) as refused:
        open_envelope(line)
    assert refused.value.job_id == "7"


@pytest.mark.parametrize("job_id", [b'""', b"7", b"null", b'"%s"' % (b"x" * 129), b'["7"]'])
def test_a_refused_line_has_no_id_if_its_own_is_unusable(job_id: bytes) -> None:
    with pytest.raises(JobError) as refused:
        open_envelope(b'{"method":"fake","job_id":%s}' % job_id)
    assert refused.value.job_id is None
    assert refused.value.code is ErrorCode.INVALID_JOB


@pytest.mark.parametrize("field", [b"type", b"method", b"job_id", b"priority", b"timeout_s"])
@pytest.mark.parametrize("depth", [10, 500, 1020, 100_000])
def test_deep_nesting_in_any_field_is_one_short_refusal(field: bytes, depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    with pytest.raises(JobError) as refused:
        open_envelope(b'{"job_id":"1","method":"fake","%s":%s}' % (field, nested))
    assert len(refused.value.message) < 300


def test_no_refusal_echoes_a_long_value() -> None:
    with pytest.raises(JobError) as refused:
        open_envelope(b'{"job_id":"1","method":"%s"}' % (b"m" * 1_000_000))
    assert "mmm..." in refused.value.message
    assert len(refused.value.message) < 300


def test_what_a_supervisor_imports_of_the_protocol_is_light() -> None:
    modules = ("envelope", "errors", "lines", "stdio", "outbox", "log", "processtree", "version")
    program = (
        "import sys\n"
        + "".join(f"import upscaled_protocol.{name}\n" for name in modules)
        + "heavy = {'pydantic', 'numpy', 'torch', 'asyncio'} & set(sys.modules)\n"
        + "sys.exit(', '.join(heavy) or 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
