"""The generated JSON Schema: fresh, valid, fit for generating types, at one with the codec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from upscaled_protocol import PROTOCOL_VERSION
from upscaled_protocol.errors import MEANINGS, ErrorCode
from upscaled_protocol.schema import documents, main

SCHEMA_DIR = Path(__file__).parents[2] / "protocol" / "schema"
HOST = documents()["host.json"]
WORKER = documents()["worker.json"]


def test_the_committed_schema_is_what_the_models_generate() -> None:
    assert main(["--check", str(SCHEMA_DIR)]) == 0


def test_a_changed_or_missing_file_is_stale_and_check_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "host.json").write_text("{}")
    (tmp_path / "errors.json").unlink()
    assert main(["--check", str(tmp_path)]) == 1
    complaints = capsys.readouterr().err.splitlines()
    assert [Path(line.split()[0]).name for line in complaints] == ["host.json", "errors.json"]
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0


@pytest.mark.parametrize("document", [HOST, WORKER], ids=["host", "worker"])
def test_the_schema_is_valid_and_all_its_references_lead_somewhere(
    document: dict[str, Any],
) -> None:
    Draft202012Validator.check_schema(document)
    assert document["$id"].startswith(f"urn:upscaled:protocol:{PROTOCOL_VERSION}:")
    targets = {f"#/$defs/{name}" for name in document["$defs"]}
    used = {node["$ref"] for node in nodes(document) if "$ref" in node}
    used |= {ref for node in nodes(document) for ref in mapping_of(node).values()}
    assert used == targets


@pytest.mark.parametrize("document", [HOST, WORKER], ids=["host", "worker"])
def test_every_object_and_enumeration_is_a_titled_definition(document: dict[str, Any]) -> None:
    for name, definition in document["$defs"].items():
        assert definition["title"] == name
    inner = [node for definition in document["$defs"].values() for node in nodes(definition)][1:]
    definitions = list(document["$defs"].values())
    for node in inner:
        if "properties" in node or "enum" in node:
            assert node in definitions, node
        if node not in definitions:
            assert not isinstance(node.get("title"), str), node


@pytest.mark.parametrize("document", [HOST, WORKER], ids=["host", "worker"])
def test_every_member_of_a_union_has_its_own_discriminator(document: dict[str, Any]) -> None:
    for union in [node for node in nodes(document) if "oneOf" in node]:
        mapping = mapping_of(union)
        assert [option["$ref"] for option in union["oneOf"]] == list(mapping.values())
        field = union["discriminator"]["propertyName"]
        for value, reference in mapping.items():
            member = document["$defs"][reference.removeprefix("#/$defs/")]
            if "oneOf" not in member:
                assert member["properties"][field]["const"] == value


def test_only_a_job_may_leave_out_its_type() -> None:
    optional = {
        name
        for document in (HOST, WORKER)
        for name, definition in document["$defs"].items()
        if "type" in definition.get("properties", {}) and "type" not in definition["required"]
    }
    assert optional == {"EsrganJob", "FluxJob", "ImagenJob", "FaceJob", "FakeJob"}


def test_every_optional_field_has_its_default() -> None:
    for document in (HOST, WORKER):
        for definition in document["$defs"].values():
            required = definition.get("required", [])
            assert len(required) == len(set(required))
            for name, field in definition.get("properties", {}).items():
                # If the default is an object, the defaults of that object describe it.
                assert name in required or "default" in field or "$ref" in field, (
                    definition["title"],
                    name,
                )


def test_messages_are_open_to_later_fields_and_configs_are_not() -> None:
    for document in (HOST, WORKER):
        for name, definition in document["$defs"].items():
            if definition["type" if "type" in definition else "title"] == "object":
                closed = definition.get("additionalProperties") is False
                assert closed is name.endswith("Config"), name


@pytest.mark.parametrize(
    "line",
    [
        b'{"job_id":"1","method":"fake"}',
        b'{"job_id":"1","method":"esrgan","config":{"image_path":"a.png","upscale_model":"x"}}',
        b'{"type":"job","job_id":"1","method":"imagen","config":{"image_url":"u"},"new":[1]}',
        b'{"type":"cancel","job_id":"1"}',
        b'{"type":"replay"}',
        b'{"type":"replay","job_ids":["1"]}',
    ],
)
def test_the_schema_accepts_what_the_codec_accepts(line: bytes) -> None:
    Draft202012Validator(HOST).validate(orjson.loads(line))


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b'{"method":"fake"}',
        b'{"job_id":"","method":"fake"}',
        b'{"job_id":"1","method":"polish"}',
        b'{"job_id":"1","method":"esrgan","config":{"image_path":"a.png","sclae":2}}',
        b'{"job_id":"1","method":"esrgan","config":{"image_path":"a.png","crop":"middle"}}',
        b'{"type":"cancel"}',
        b'{"type":"work","job_id":"1"}',
    ],
)
def test_the_schema_refuses_what_the_codec_refuses(line: bytes) -> None:
    assert not Draft202012Validator(HOST).is_valid(orjson.loads(line))


def test_the_error_file_lists_every_code_once() -> None:
    codes = documents()["errors.json"]["codes"]
    assert list(codes) == [code.value for code in ErrorCode]
    for code, entry in codes.items():
        assert entry == {
            "retryable": MEANINGS[ErrorCode(code)].retryable,
            "meaning": MEANINGS[ErrorCode(code)].raised_when,
        }


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object inside a document, itself included."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


def mapping_of(node: dict[str, Any]) -> dict[str, str]:
    discriminator = node.get("discriminator")
    return discriminator["mapping"] if isinstance(discriminator, dict) else {}
