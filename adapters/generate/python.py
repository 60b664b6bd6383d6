"""The types in Python: `python/upscaled/protocol.py`.

A TypedDict for what a host writes, because it is written as JSON; a dataclass for what it reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from schemas import (
    ENUMS,
    ERRORS,
    FROM_PROTOCOL,
    HOST,
    LEFT_OUT,
    RENAMED,
    WORKER,
    Schema,
    referred_name,
    without_null,
)

_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
_ZEROS = {"str": "", "int": 0, "float": 0.0, "bool": False}
# `upscaled.Result` is what a call returns: it has the picture too.
_RENAMED = RENAMED | {"Result": "ResultMessage"}
# Absent only with the fake engine.
_ALWAYS_THERE = {("Result", "input_size"), ("Result", "output_size")}
# What a call takes as its input and its output.
_PICTURE_FIELDS = {
    "image_path",
    "image_base64",
    "image_url",
    "output_path",
    "output_base64",
    "output_url",
}
_HOST_ENUMS = {"Crop", "ImagenFactor", "OutputFormat", "Precision"}


def protocol_types() -> str:
    """The protocol's messages as one module."""
    lines = [
        f"# Generated from {FROM_PROTOCOL} by adapters/generate. Do not edit.",
        "# fmt: off",
        "# ruff: noqa: E501",
        '"""What a host and a daemon say to each other, version 1 of the protocol."""',
        "",
        "from __future__ import annotations",
        "",
        "from dataclasses import dataclass, field",
        "from typing import Any, ClassVar, Literal, NotRequired, TypedDict",
        "",
        f"PROTOCOL_VERSION = {ERRORS['protocol']}",
        "",
        "# Every error code, and whether the same job may succeed later.",
        "ERROR_CODES: dict[str, bool] = {",
    ]
    lines += [
        f"    {json.dumps(code)}: {meaning['retryable']},  # {meaning['meaning']}"
        for code, meaning in ERRORS["codes"].items()
    ]
    lines += ["}"]
    for name in sorted(_HOST_ENUMS):
        values = ", ".join(json.dumps(value) for value in HOST["$defs"][name]["enum"])
        lines += ["", f"{name} = Literal[{values}]"]
    jobs = []
    for name, definition in HOST["$defs"].items():
        if name.endswith(("Config", "Job")) and "properties" in definition:
            lines += ["", "", *_typed_dict(name, definition)]
            jobs += [name] if name.endswith("Job") else []
    lines += ["", "", *_options()]
    lines += [
        "",
        "",
        "# The only message that may leave out its type.",
        f"Job = {' | '.join(jobs)}",
    ]
    written: set[str] = set()
    for name in WORKER["$defs"]:
        lines += _dataclasses(name, written)
    return "\n".join(lines) + "\n"


def _typed_dict(name: str, definition: Schema) -> Iterator[str]:
    is_job = name.endswith("Job")
    yield f"class {name}(TypedDict{'' if is_job else ', total=False'}):"
    yield f'    """{definition["description"]}"""'
    yield ""
    # A job without an id is given one.
    required = set(definition.get("required", ())) - {"job_id"}
    for field, schema in definition["properties"].items():
        if is_job and ("Job", field) in LEFT_OUT:
            continue
        if "description" in schema:
            yield f"    # {schema['description']}"
        typed = _type(schema)
        if is_job and field not in required:
            typed = f"NotRequired[{typed}]"
        yield f"    {field}: {typed}"


def _options() -> Iterator[str]:
    """The keyword arguments of a call: the configs' fields, except the picture's."""
    yield "class Options(TypedDict, total=False):"
    yield '    """The fields of all configs, as keyword arguments. The daemon refuses a field that'
    yield '    the method does not have."""'
    yield ""
    configs = {
        name.removesuffix("Config").lower(): definition["properties"]
        for name, definition in HOST["$defs"].items()
        if name.endswith("Config") and name != "FakeConfig"
    }
    names = dict.fromkeys(field for fields in configs.values() for field in fields)
    for field in names:
        if field in _PICTURE_FIELDS:
            continue
        having = {method: fields[field] for method, fields in configs.items() if field in fields}
        methods = "" if len(having) == len(configs) else f"{_listed(list(having))}: "
        description = next(
            (schema["description"] for schema in having.values() if "description" in schema), ""
        )
        yield f"    # {methods}{description}".rstrip(": ")
        yield f"    {field}: {' | '.join(dict.fromkeys(map(_type, having.values())))}"


def _dataclasses(name: str, written: set[str]) -> list[str]:
    """A message or a part of one, after the parts that it has."""
    definition = WORKER["$defs"][name]
    if name in written or "properties" not in definition:
        return []
    written.add(name)
    properties = definition["properties"]
    parts = {
        field: part for field, schema in properties.items() if (part := _part(schema)) is not None
    }
    lines = [line for _, part in parts.values() for line in _dataclasses(part, written)]
    lines += ["", "", "@dataclass(slots=True, kw_only=True)", f"class {_RENAMED.get(name, name)}:"]
    lines += [f'    """{definition.get("description", "A part of a message.")}"""', ""]
    if parts:
        pairs = ", ".join(
            f'"{field}": ("{shape}", {part})' for field, (shape, part) in parts.items()
        )
        lines += [f"    PARTS: ClassVar[dict[str, tuple[str, Any]]] = {{{pairs}}}", ""]
    required = definition.get("required", ())
    for field, schema in properties.items():
        if field == "type":
            continue
        if "description" in schema:
            lines.append(f"    # {schema['description']}")
        is_there = field in required or (name, field) in _ALWAYS_THERE
        lines.append(f"    {field}: {_type_and_default(schema, is_there)}")
    return lines


def _type_and_default(schema: Schema, is_required: bool) -> str:
    """The type of a field, and its value if the daemon leaves it out."""
    typed = _type(schema)
    plain = without_null(schema)
    default = schema.get("default")
    if typed.startswith(("list", "dict")) and (is_required or default is not None):
        return f"{typed} = field(default_factory={typed.partition('[')[0]})"
    if "$ref" in plain and referred_name(plain) not in ENUMS and is_required:
        return f"{typed} = field(default_factory={typed})"
    if default is None and is_required and not (typed == "str" and "anyOf" in schema):
        default = _ZEROS[typed]
    if default is None:
        return f"{typed} | None = None"
    return f"{typed} = {json.dumps(default) if isinstance(default, str) else default}"


def _part(schema: Schema) -> tuple[str, str] | None:
    """How a field holds parts of a message, and which part; None if it holds none."""
    plain = without_null(schema)
    for shape, held in (
        ("one", plain),
        ("list", plain.get("items")),
        ("map", plain.get("additionalProperties")),
    ):
        if isinstance(held, dict) and "$ref" in held and referred_name(held) not in ENUMS:
            return shape, referred_name(held)
    return None


def _type(schema: Schema) -> str:
    plain = without_null(schema)
    if "$ref" in plain:
        name = referred_name(plain)
        # A later daemon may say more than the client knows.
        return "str" if name in ENUMS and name not in _HOST_ENUMS else name
    if "const" in plain:
        return f"Literal[{json.dumps(plain['const'])}]"
    if plain["type"] == "array":
        return f"list[{_type(plain['items'])}]"
    if plain["type"] == "object":
        values = plain.get("additionalProperties")
        return f"dict[str, {_type(values) if values else 'Any'}]"
    return _TYPES[plain["type"]]


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
