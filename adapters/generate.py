"""Writes the adapters' types from `protocol/schema`: `python adapters/generate.py [--check]`.

`node/src/protocol.ts`, `go/protocol.go` and `python/upscaled/protocol.py` are checked in. With
`--check` nothing is written, and the exit status is 1 if one of them is stale.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

_HERE = Path(__file__).resolve().parent
_SCHEMA = _HERE.parent / "protocol" / "schema"

# Both languages have an Error of their own.
_RENAMED = {"Error": "ErrorMessage"}
# Filled in by supervisors alone.
_LEFT_OUT = {("Job", "attempt"), ("Job", "accepted_as")}

_GO_TYPES = {"string": "string", "integer": "int", "number": "float64", "boolean": "bool"}
_GO_INITIALISMS = {
    "dpi",
    "eta",
    "fp16",
    "gcp",
    "gpu",
    "id",
    "ids",
    "json",
    "mb",
    "pid",
    "rss",
    "s",
    "url",
}


_PY_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
# A call's own result has the picture too.
_PY_RENAMED = {"Error": "ErrorMessage", "Result": "ResultMessage"}
# Absent with the fake engine alone.
_PY_ALWAYS = {("Result", "input_size"), ("Result", "output_size")}
# What a call takes as its input and its output.
_PY_GIVEN = {
    "image_path",
    "image_base64",
    "image_url",
    "output_path",
    "output_base64",
    "output_url",
}

_HOST, _WORKER, _ERRORS = (
    json.loads((_SCHEMA / f"{name}.json").read_text("utf-8"))
    for name in ("host", "worker", "errors")
)
_ENUMS = {
    name
    for schema in (_HOST, _WORKER)
    for name, definition in schema["$defs"].items()
    if "enum" in definition
}
_HOST_ENUMS = {"Crop", "ImagenFactor", "OutputFormat", "Precision"}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or check them; the exit status."""
    parser = argparse.ArgumentParser(description="Write the adapters' types.")
    parser.add_argument("--check", action="store_true", help="write nothing, name stale files")
    check = parser.parse_args(argv).check
    texts = {
        _HERE / "node" / "src" / "protocol.ts": typescript(),
        _HERE / "go" / "protocol.go": go(),
        _HERE / "python" / "upscaled" / "protocol.py": python(),
    }
    return write_or_check(texts, check=check)


def write_or_check(texts: dict[Path, str], *, check: bool) -> int:
    """Write the files; or name those that are stale, and return 1 if there is one."""
    stale = 0
    for path, text in texts.items():
        if not check:
            path.write_text(text, "utf-8")
        elif not path.is_file() or path.read_text("utf-8") != text:
            stale = 1
            sys.stderr.write(f"{path} is stale; run `make schema`\n")
    return stale


def typescript() -> str:
    """The types as one TypeScript module."""
    lines = [
        "// Generated from protocol/schema by adapters/generate.py. Do not edit.",
        "",
        f"export const PROTOCOL_VERSION = {_ERRORS['protocol']};",
        "",
        "/** Every error code, and whether the same job may succeed later. */",
        "export const ERROR_CODES = {",
    ]
    for code, meaning in _ERRORS["codes"].items():
        retryable = json.dumps(meaning["retryable"])
        lines += [f"  /** {meaning['meaning']} */", f"  {code}: {{ retryable: {retryable} }},"]
    lines += ["} as const;", "", "export type ErrorCode = keyof typeof ERROR_CODES;"]
    for schema, is_open in ((_HOST, False), (_WORKER, True)):
        for name, definition in schema["$defs"].items():
            if name != "ErrorCode":
                lines += ["", *_ts_definition(_RENAMED.get(name, name), definition, is_open)]
        lines += ["", *_ts_comment(schema, ""), f"export type {schema['title']} ="]
        lines += [f"  | {_ts_type(member)}" for member in schema["oneOf"]]
        lines[-1] += ";"
    return "\n".join(lines) + "\n"


def _ts_definition(name: str, definition: Schema, is_open: bool) -> Iterator[str]:
    yield from _ts_comment(definition, "")
    if "oneOf" in definition:
        yield f"export type {name} = {' | '.join(map(_ts_type, definition['oneOf']))};"
    elif "enum" in definition:
        values = " | ".join(json.dumps(value) for value in definition["enum"])
        # A later daemon may say more than we know.
        yield f"export type {name} = {values}{' | (string & {})' if is_open else ''};"
    else:
        yield f"export interface {name} {{"
        required = set(definition.get("required", ()))
        if not is_open:
            required.discard("type" if "method" in definition["properties"] else "")
        for field, schema in definition["properties"].items():
            yield from _ts_comment(schema, "  ")
            yield f"  {field}{'' if field in required else '?'}: {_ts_type(schema)};"
        yield "}"


def _ts_type(schema: Schema) -> str:
    schema = _without_null(schema)
    if "$ref" in schema:
        return _name(schema)
    if "const" in schema:
        return json.dumps(schema["const"])
    if schema["type"] == "array":
        return f"{_ts_type(schema['items'])}[]"
    if schema["type"] == "object":
        values = schema.get("additionalProperties")
        return f"Record<string, {_ts_type(values) if values else 'never'}>"
    return {"integer": "number"}.get(schema["type"], str(schema["type"]))


def _ts_comment(schema: Schema, indent: str) -> list[str]:
    return [f"{indent}/** {schema['description']} */"] if "description" in schema else []


def go() -> str:
    """The types as one Go file, in gofmt's form."""
    codes = _ERRORS["codes"]
    lines = [
        "// Code generated from protocol/schema by adapters/generate.py. DO NOT EDIT.",
        "",
        "package upscaled",
        "",
        "// ProtocolVersion is the version of the protocol that these types describe.",
        f"const ProtocolVersion = {_ERRORS['protocol']}",
        "",
        "// The codes that a job may end with. Each is an error for errors.Is.",
        "const (",
    ]
    for code, meaning in codes.items():
        name = f"Code{_go_name(code)}"
        lines += [f"\t// {name}: {meaning['meaning']}.", f'\t{name} Code = "{code}"']
    lines += [
        ")",
        "",
        "// Codes has every code, and whether the same job may succeed later.",
        "var Codes = map[Code]bool{",
        *_columns(
            [[f"\tCode{_go_name(c)}:", f"{json.dumps(codes[c]['retryable'])},"] for c in codes]
        ),
        "}",
    ]
    jobs = _HOST["$defs"]["Job"]["discriminator"]["mapping"]
    for method, reference in jobs.items():
        job = _HOST["$defs"][reference.rpartition("/")[2]]
        config = _name(job["properties"]["config"])
        lines += ["", "// Method is the method that the config is for."]
        lines += [f'func ({config}) Method() string {{ return "{method}" }}']
    for schema in (_HOST, _WORKER):
        for name, definition in schema["$defs"].items():
            if name == "Job":
                first = _HOST["$defs"][next(iter(jobs.values())).rpartition("/")[2]]
                shared = {
                    field: schema
                    for field, schema in (
                        *first["properties"].items(),
                        ("config", {"$ref": "Config"}),
                    )
                    if field not in ("type", "method") and ("Job", field) not in _LEFT_OUT
                }
                job = {
                    **first,
                    "properties": shared,
                    "description": "One job; its config says the method.",
                }
                lines += ["", *_go_struct("Job", job)]
            elif "properties" in definition and "method" not in definition["properties"]:
                lines += ["", *_go_struct(_RENAMED.get(name, name), definition)]
    return "\n".join(lines) + "\n"


def python() -> str:
    """The types as one Python module: a TypedDict for what a host writes, because it is written as
    JSON, and a dataclass for what it reads."""
    codes = [
        f"    {json.dumps(code)}: {meaning['retryable']},  # {meaning['meaning']}"
        for code, meaning in _ERRORS["codes"].items()
    ]
    lines = [
        "# Generated from protocol/schema by adapters/generate.py. Do not edit.",
        "# fmt: off",
        "# ruff: noqa: E501",
        '"""What a host and a daemon say to each other, version 1 of the protocol."""',
        "",
        "from __future__ import annotations",
        "",
        "from dataclasses import dataclass, field",
        "from typing import Any, ClassVar, Literal, NotRequired, TypedDict",
        "",
        f"PROTOCOL_VERSION = {_ERRORS['protocol']}",
        "",
        "# Every error code, and whether the same job may succeed later.",
        "ERROR_CODES: dict[str, bool] = {",
        *codes,
        "}",
    ]
    for name in sorted(_HOST_ENUMS):
        values = ", ".join(json.dumps(value) for value in _HOST["$defs"][name]["enum"])
        lines += ["", f"{name} = Literal[{values}]"]
    jobs = []
    for name, definition in _HOST["$defs"].items():
        if name.endswith(("Config", "Job")) and "properties" in definition:
            lines += ["", "", *_py_dict(name, definition)]
            jobs += [name] if name.endswith("Job") else []
    lines += ["", "", *_py_options()]
    lines += [
        "",
        "",
        "# The only message that may leave out its type.",
        f"Job = {' | '.join(jobs)}",
    ]
    written: set[str] = set()
    for name in _WORKER["$defs"]:
        lines += _py_classes(name, written)
    return "\n".join(lines) + "\n"


def _py_dict(name: str, definition: Schema) -> Iterator[str]:
    is_job = name.endswith("Job")
    yield f"class {name}(TypedDict{'' if is_job else ', total=False'}):"
    yield f'    """{definition["description"]}"""'
    yield ""
    # A job without an id is given one.
    required = set(definition.get("required", ())) - {"job_id"}
    for field, schema in definition["properties"].items():
        if is_job and ("Job", field) in _LEFT_OUT:
            continue
        if "description" in schema:
            yield f"    # {schema['description']}"
        typed = _py_type(schema)
        if is_job and field not in required:
            typed = f"NotRequired[{typed}]"
        yield f"    {field}: {typed}"


def _and(first: Sequence[str], last: str) -> str:
    return f"{', '.join(first)} and {last}" if first else last


def _py_options() -> Iterator[str]:
    """What a call may ask for: the configs' fields, but for those that it fills in itself."""
    yield "class Options(TypedDict, total=False):"
    yield '    """The fields of all configs, as keyword arguments. The daemon refuses a field that'
    yield '    the method does not have."""'
    yield ""
    configs = {
        name.removesuffix("Config").lower(): definition["properties"]
        for name, definition in _HOST["$defs"].items()
        if name.endswith("Config") and name != "FakeConfig"
    }
    names = dict.fromkeys(field for fields in configs.values() for field in fields)
    for field in names:
        if field in _PY_GIVEN:
            continue
        having = {method: fields[field] for method, fields in configs.items() if field in fields}
        *first, last = having
        some = "" if len(having) == len(configs) else f"{_and(first, last)}: "
        told = next(
            (schema["description"] for schema in having.values() if "description" in schema), ""
        )
        yield f"    # {some}{told}".rstrip(": ")
        yield f"    {field}: {' | '.join(dict.fromkeys(map(_py_type, having.values())))}"


def _py_classes(name: str, written: set[str]) -> list[str]:
    """A message or a part of one, after the parts that it has."""
    definition = _WORKER["$defs"][name]
    if name in written or "properties" not in definition:
        return []
    written.add(name)
    properties = definition["properties"]
    parts = {
        field: part
        for field, schema in properties.items()
        if (part := _py_part(schema)) is not None
    }
    lines = [line for _, part in parts.values() for line in _py_classes(part, written)]
    lines += [
        "",
        "",
        "@dataclass(slots=True, kw_only=True)",
        f"class {_PY_RENAMED.get(name, name)}:",
    ]
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
        is_there = field in required or (name, field) in _PY_ALWAYS
        lines.append(f"    {field}: {_py_field(schema, is_there)}")
    return lines


def _py_field(schema: Schema, is_required: bool) -> str:
    """The type of a field, and what it is if the daemon leaves it out."""
    typed = _py_type(schema)
    plain = _without_null(schema)
    default = schema.get("default")
    if typed.startswith(("list", "dict")) and (is_required or default is not None):
        return f"{typed} = field(default_factory={typed.partition('[')[0]})"
    if "$ref" in plain and _name(plain) not in _ENUMS and is_required:
        return f"{typed} = field(default_factory={typed})"
    if default is None and is_required and not (typed == "str" and "anyOf" in schema):
        default = {"str": "", "int": 0, "float": 0.0, "bool": False}[typed]
    if default is None:
        return f"{typed} | None = None"
    return f"{typed} = {json.dumps(default) if isinstance(default, str) else default}"


def _py_part(schema: Schema) -> tuple[str, str] | None:
    """How a field holds parts of a message, and which; None if it holds none."""
    plain = _without_null(schema)
    for shape, held in (
        ("one", plain),
        ("list", plain.get("items")),
        ("map", plain.get("additionalProperties")),
    ):
        if isinstance(held, dict) and "$ref" in held and _name(held) not in _ENUMS:
            return shape, _name(held)
    return None


def _py_type(schema: Schema) -> str:
    plain = _without_null(schema)
    if "$ref" in plain:
        name = _name(plain)
        # A later daemon may say more than we know.
        return "str" if name in _ENUMS and name not in _HOST_ENUMS else name
    if "const" in plain:
        return f"Literal[{json.dumps(plain['const'])}]"
    if plain["type"] == "array":
        return f"list[{_py_type(plain['items'])}]"
    if plain["type"] == "object":
        values = plain.get("additionalProperties")
        return f"dict[str, {_py_type(values) if values else 'Any'}]"
    return _PY_TYPES[plain["type"]]


def _go_struct(name: str, definition: Schema) -> Iterator[str]:
    description = definition.get("description")
    yield f"// {name}: {description}" if description else f"// {name} is a part of a message."
    yield f"type {name} struct {{"
    required = definition.get("required", ())
    block: list[list[str]] = []
    for field, schema in definition["properties"].items():
        tag = field if field in required else f"{field},omitempty"
        cells = [f"\t{_go_name(field)}", _go_type(schema, field in required), f'`json:"{tag}"`']
        if "description" in schema:
            yield from _columns(block)
            yield f"\t// {schema['description']}"
            block = []
        block.append(cells)
    yield from _columns(block)
    yield "}"


def _go_type(schema: Schema, is_required: bool) -> str:
    plain = _without_null(schema)
    if "$ref" in plain:
        name = _name(plain)
        if name in _ENUMS:
            return "Code" if name == "ErrorCode" else "string"
        return name if is_required else f"*{name}"
    if plain["type"] == "array":
        return f"[]{_go_type(plain['items'], True)}"
    if plain["type"] == "object":
        values = plain.get("additionalProperties")
        return f"map[string]{_go_type(values, True) if values else 'any'}"
    name = _GO_TYPES[plain["type"]]
    return name if is_required or _zero_says_nothing(schema, plain) else f"*{name}"


def _zero_says_nothing(schema: Schema, plain: Schema) -> bool:
    """Whether Go's zero value, which is left out, can stand for an absent field."""
    if plain["type"] == "string" or schema.get("default") in (0, False):
        return True
    minimum: float = plain.get("minimum", -1)
    above: float = plain.get("exclusiveMinimum", -1)
    return minimum > 0 or above >= 0


def _go_name(field: str) -> str:
    return "".join(
        {"ids": "IDs"}.get(part, part.upper()) if part in _GO_INITIALISMS else part.capitalize()
        for part in field.split("_")
    )


def _columns(rows: list[list[str]]) -> list[str]:
    """The rows with their cells under each other, as gofmt lays them out."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    return [
        " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _without_null(schema: Schema) -> Schema:
    """The schema of the value, where there is one: absent and null mean the same."""
    members: list[Schema] = schema.get("anyOf") or schema.get("allOf") or [schema]
    return next(member for member in members if member.get("type") != "null")


def _name(schema: Schema) -> str:
    name = str(schema["$ref"]).rpartition("/")[2]
    return _RENAMED.get(name, name)


if __name__ == "__main__":
    sys.exit(main())
