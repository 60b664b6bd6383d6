"""The types in Go, in gofmt's form: `go/protocol.go` and `go/http/api.go`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from schemas import (
    ENUMS,
    ERRORS,
    FROM_OPENAPI,
    FROM_PROTOCOL,
    HOST,
    LEFT_OUT,
    RENAMED,
    WORKER,
    Api,
    Schema,
    referred_name,
    without_null,
)

_HEADER = "// Code generated from {} by adapters/generate. DO NOT EDIT."
_TYPES = {"string": "string", "integer": "int", "number": "float64", "boolean": "bool"}
_INITIALISMS = {
    "dpi": "DPI",
    "eta": "ETA",
    "fp16": "FP16",
    "gcp": "GCP",
    "gpu": "GPU",
    "id": "ID",
    "ids": "IDs",
    "json": "JSON",
    "mb": "MB",
    "pid": "PID",
    "rss": "RSS",
    "s": "S",
    "url": "URL",
}


def protocol_types() -> str:
    """The protocol's messages as one file."""
    codes = ERRORS["codes"]
    lines = [
        _HEADER.format(FROM_PROTOCOL),
        "",
        "package upscaled",
        "",
        "// ProtocolVersion is the version of the protocol that these types describe.",
        f"const ProtocolVersion = {ERRORS['protocol']}",
        "",
        "// The codes that a job may end with. Each is an error for errors.Is.",
        "const (",
    ]
    for code, meaning in codes.items():
        name = f"Code{_name(code)}"
        lines += [f"\t// {name}: {meaning['meaning']}.", f'\t{name} Code = "{code}"']
    lines += [
        ")",
        "",
        "// Codes has every code, and whether the same job may succeed later.",
        "var Codes = map[Code]bool{",
        *_columns(
            [
                [f"\tCode{_name(code)}:", f"{json.dumps(codes[code]['retryable'])},"]
                for code in codes
            ]
        ),
        "}",
    ]
    jobs = _jobs()
    for method, job in jobs.items():
        config = referred_name(job["properties"]["config"])
        lines += ["", "// Method is the method that the config is for."]
        lines += [f'func ({config}) Method() string {{ return "{method}" }}']
    for schema in (HOST, WORKER):
        for name, definition in schema["$defs"].items():
            if name == "Job":
                lines += ["", *_struct("Job", _any_job(next(iter(jobs.values()))))]
            elif "properties" in definition and "method" not in definition["properties"]:
                lines += ["", *_struct(RENAMED.get(name, name), definition)]
    return "\n".join(lines) + "\n"


def api_types(api: Api) -> str:
    """The HTTP server's answers as one file, which imports the protocol's types."""
    lines = [
        _HEADER.format(FROM_OPENAPI),
        "",
        "package upscaledhttp",
        "",
        'import upscaled "github.com/upscaled/upscaled/adapters/go"',
    ]
    theirs = re.compile(rf"(?<=[\]*\t ])({'|'.join(sorted(api.shared))})(?= +`json)")
    for name, definition in api.own.items():
        lines += ["", *(theirs.sub(r"upscaled.\1", line) for line in _struct(name, definition))]
    return "\n".join(_aligned(lines)) + "\n"


def _jobs() -> dict[str, Schema]:
    """The definition of each method's job."""
    references = HOST["$defs"]["Job"]["discriminator"]["mapping"]
    return {
        method: HOST["$defs"][reference.rpartition("/")[2]]
        for method, reference in references.items()
    }


def _any_job(job: Schema) -> Schema:
    """One definition for the jobs of all methods, made from one of them: the config has the
    method."""
    fields = {**job["properties"], "config": {"$ref": "Config"}}
    left_out = {"type", "method"} | {field for name, field in LEFT_OUT if name == "Job"}
    return {
        **job,
        "properties": {name: schema for name, schema in fields.items() if name not in left_out},
        "description": "One job; its config says the method.",
    }


def _struct(name: str, definition: Schema) -> Iterator[str]:
    description = definition.get("description")
    yield f"// {name}: {description}" if description else f"// {name} is a part of a message."
    yield f"type {name} struct {{"
    required = definition.get("required", ())
    block: list[list[str]] = []
    for field, schema in definition["properties"].items():
        tag = field if field in required else f"{field},omitempty"
        cells = [f"\t{_name(field)}", _type(schema, field in required), f'`json:"{tag}"`']
        if "description" in schema:
            yield from _columns(block)
            yield f"\t// {schema['description']}"
            block = []
        block.append(cells)
    yield from _columns(block)
    yield "}"


def _type(schema: Schema, is_required: bool) -> str:
    plain = without_null(schema)
    if "$ref" in plain:
        name = referred_name(plain)
        if name in ENUMS:
            return "Code" if name == "ErrorCode" else "string"
        return name if is_required else f"*{name}"
    if plain["type"] == "array":
        return f"[]{_type(plain['items'], True)}"
    if plain["type"] == "object":
        values = plain.get("additionalProperties")
        return f"map[string]{_type(values, True) if values else 'any'}"
    name = _TYPES[plain["type"]]
    return name if is_required or _zero_is_absent(schema, plain) else f"*{name}"


def _zero_is_absent(schema: Schema, plain: Schema) -> bool:
    """True if Go's zero value, which is left out, can stand for an absent field."""
    if plain["type"] == "string" or schema.get("default") in (0, False):
        return True
    minimum: float = plain.get("minimum", -1)
    above: float = plain.get("exclusiveMinimum", -1)
    return minimum > 0 or above >= 0


def _name(field: str) -> str:
    return "".join(_INITIALISMS.get(part, part.capitalize()) for part in field.split("_"))


def _columns(rows: list[list[str]]) -> list[str]:
    """The rows with their cells under each other, as gofmt lays them out."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    return [
        " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _aligned(lines: list[str]) -> Iterator[str]:
    """The fields' columns under each other again, after the package's name has moved some."""
    block: list[list[str]] = []
    for line in lines:
        cells = line.split()
        if line.startswith("\t") and len(cells) == 3 and cells[2].startswith("`json"):
            block.append([f"\t{cells[0]}", *cells[1:]])
            continue
        yield from _columns(block)
        block = []
        yield line
