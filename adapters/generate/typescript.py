"""The types in TypeScript: `node/src/protocol.ts` and `node/src/http/api.ts`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from schemas import (
    ERRORS,
    FROM_OPENAPI,
    FROM_PROTOCOL,
    HOST,
    RENAMED,
    WORKER,
    Api,
    Schema,
    referred_name,
    without_null,
)

_HEADER = "// Generated from {} by adapters/generate. Do not edit."
# A later daemon or server may say more than the client knows.
_OR_LATER = "(string & {})"


def protocol_types() -> str:
    """The protocol's messages as one module."""
    lines = [
        _HEADER.format(FROM_PROTOCOL),
        "",
        f"export const PROTOCOL_VERSION = {ERRORS['protocol']};",
        "",
        "/** Every error code, and whether the same job may succeed later. */",
        "export const ERROR_CODES = {",
    ]
    for code, meaning in ERRORS["codes"].items():
        retryable = json.dumps(meaning["retryable"])
        lines += [f"  /** {meaning['meaning']} */", f"  {code}: {{ retryable: {retryable} }},"]
    lines += ["} as const;", "", "export type ErrorCode = keyof typeof ERROR_CODES;"]
    for schema, is_open in ((HOST, False), (WORKER, True)):
        for name, definition in schema["$defs"].items():
            if name != "ErrorCode":
                lines += ["", *_definition(RENAMED.get(name, name), definition, is_open)]
        lines += ["", *_comment(schema, ""), f"export type {schema['title']} ="]
        lines += [f"  | {_type(member)}" for member in schema["oneOf"]]
        lines[-1] += ";"
    return "\n".join(lines) + "\n"


def api_types(api: Api) -> str:
    """The HTTP server's answers as one module, which imports the protocol's types."""
    lines = [
        _HEADER.format(FROM_OPENAPI),
        "",
        f'import type {{ {", ".join(sorted(api.used()))} }} from "../protocol.js";',
    ]
    for name, definition in api.own.items():
        required = set(definition.get("required", ()))
        lines += ["", *_comment(definition, ""), *_interface(name, definition, required)]
    return "\n".join(lines) + "\n"


def _definition(name: str, definition: Schema, is_open: bool) -> Iterator[str]:
    yield from _comment(definition, "")
    if "oneOf" in definition:
        yield f"export type {name} = {' | '.join(map(_type, definition['oneOf']))};"
    elif "enum" in definition:
        values = [json.dumps(value) for value in definition["enum"]]
        yield f"export type {name} = {' | '.join([*values, _OR_LATER] if is_open else values)};"
    else:
        required = set(definition.get("required", ()))
        if not is_open and "method" in definition["properties"]:
            required.discard("type")  # only a job may leave it out
        yield from _interface(name, definition, required)


def _interface(name: str, definition: Schema, required: set[str]) -> Iterator[str]:
    yield f"export interface {name} {{"
    for field, schema in definition["properties"].items():
        yield from _comment(schema, "  ")
        yield f"  {field}{'' if field in required else '?'}: {_type(schema)};"
    yield "}"


def _type(schema: Schema) -> str:
    plain = without_null(schema)
    if "$ref" in plain:
        return referred_name(plain)
    if "const" in plain:
        return json.dumps(plain["const"])
    if "enum" in plain:
        return " | ".join([*map(json.dumps, plain["enum"]), _OR_LATER])
    if plain["type"] == "array":
        return f"{_type(plain['items'])}[]"
    if plain["type"] == "object":
        values = plain.get("additionalProperties")
        return f"Record<string, {_type(values) if values else 'never'}>"
    return {"integer": "number"}.get(plain["type"], str(plain["type"]))


def _comment(schema: Schema, indent: str) -> list[str]:
    return [f"{indent}/** {schema['description']} */"] if "description" in schema else []
