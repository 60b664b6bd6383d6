"""The golden transcripts, against the codec and the schema."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from upscaled_protocol.codec import decode_host_message, decode_worker_message, encode
from upscaled_protocol.errors import MEANINGS, ErrorCode, JobError
from upscaled_protocol.hostlines import HostLines
from upscaled_protocol.lines import decode_line
from upscaled_protocol.messages import Error
from upscaled_protocol.schema import documents

Row = dict[str, Any]

EXAMPLES = sorted((Path(__file__).parents[2] / "protocol" / "examples").glob("*.jsonl"))
ROWS = [
    (path.stem, number, orjson.loads(line))
    for path in EXAMPLES
    for number, line in enumerate(path.read_bytes().splitlines(), start=1)
]
FIELDS = {
    "about": {"text", "play"},
    "host": {"line", "base64", "times", "end", "refused"},
    "worker": {"line", "foreign"},
    "stderr": {"line"},
    "close": {"stream"},
    "exit": {"status"},
}
# What only a daemon with its state can refuse; the codec takes such lines.
STATEFUL = {"duplicate_job", "queue_full", "shutting_down", "line_too_long"}

HOST_SCHEMA = Draft202012Validator(documents()["host.json"])
WORKER_SCHEMA = Draft202012Validator(documents()["worker.json"])


def rows_of(direction: str) -> list[Any]:
    return [
        pytest.param(row, id=f"{name}:{number}")
        for name, number, row in ROWS
        if row["dir"] == direction
    ]


def written(row: Row) -> bytes:
    """What a host row puts on the wire."""
    text = base64.b64decode(row["base64"]) if "base64" in row else str(row["line"]).encode()
    return text * int(row.get("times", 1)) + str(row.get("end", "\n")).encode()


def test_every_row_is_of_the_documented_form() -> None:
    for name, number, row in ROWS:
        assert set(row) <= {"dir"} | FIELDS[row["dir"]], (name, number)
        assert (row["dir"] == "about") is (number == 1), (name, number)


@pytest.mark.parametrize("row", rows_of("host"))
def test_every_host_line_decodes_or_is_refused_as_stated(row: Row) -> None:
    splitter = HostLines()
    lines = splitter.feed(written(row)) + splitter.end()
    if not lines:
        assert not row["line"].strip()
        return
    (line,) = lines
    assert isinstance(line, bytes)
    refused = row.get("refused")
    if refused in {None} | STATEFUL - {"line_too_long"}:
        decode_host_message(line)
        HOST_SCHEMA.validate(decode_line(line))
        return
    with pytest.raises(JobError) as error:
        decode_host_message(line)
    assert refused == "line_too_long" or error.value.code == refused


@pytest.mark.parametrize(
    "row", [param for param in rows_of("worker") if not param.values[0].get("foreign")]
)
def test_every_worker_line_is_a_valid_message_in_its_canonical_form(row: Row) -> None:
    line = row["line"].encode()
    WORKER_SCHEMA.validate(decode_line(line))
    message = decode_worker_message(line)
    assert encode(message) == line + b"\n"
    if isinstance(message, Error):
        assert MEANINGS[message.code].retryable or not message.retryable


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_accepted_job_has_one_terminal_event_and_progress_that_never_falls(
    path: Path,
) -> None:
    rows = [row for name, _, row in ROWS if name == path.stem and row["dir"] == "worker"]
    messages = [decode_line(row["line"].encode()) for row in rows if not row.get("foreign")]
    percents: dict[str, float] = {}
    ended = set()
    for message in messages:
        job_id = message.get("job_id")
        if message["type"] == "accepted":
            assert job_id not in percents
            percents[job_id] = 0.0
            ended.discard(job_id)
        elif message["type"] == "progress":
            assert message["progress"] >= percents[job_id]
            percents[job_id] = message["progress"]
        elif message["type"] in ("result", "error") and job_id in percents:
            del percents[job_id]
            ended.add(job_id)
        elif message["type"] == "result":
            assert path.stem == "replay"
            assert job_id in ended
    assert percents == {} or path.stem == "reader_gone"


def test_every_code_and_every_message_type_has_an_example() -> None:
    messages = [
        decode_line(row["line"].encode())
        for _, _, row in ROWS
        if row["dir"] == "worker" and not row.get("foreign")
    ]
    assert {message["code"] for message in messages if message["type"] == "error"} == set(ErrorCode)
    shown = {(message["type"], message.get("message")) for message in messages}
    statuses = documents()["worker.json"]["$defs"]["StatusMessage"]["enum"]
    assert {("status", status) for status in statuses} <= shown
    mapping = documents()["worker.json"]["discriminator"]["mapping"]
    assert {kind for kind, _ in shown} == set(mapping)


def test_every_host_message_type_has_an_example() -> None:
    sent = {
        type(decode_host_message(row["line"].encode())).__name__
        for _, _, row in ROWS
        if row["dir"] == "host" and row.get("line", "").strip() and "refused" not in row
    }
    definitions = documents()["host.json"]["$defs"]
    messages = {name for name in definitions if "type" in definitions[name].get("properties", {})}
    assert sent == messages
