"""Writes the HTTP clients' types from `http/openapi.json`: `python adapters/generate_http.py
[--check]`.

`node/src/http/api.ts` and `go/http/api.go` are checked in. What the protocol has too, such as
`Size`, is the protocol's type. With `--check` nothing is written, and the exit status is 1 if one
of the files is stale.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import generate

Schema = dict[str, Any]

_HERE = Path(__file__).resolve().parent
_SOURCE = "adapters/http/openapi.json"
_WORKER = json.loads((generate._SCHEMA / "worker.json").read_text("utf-8"))
# Bodies of requests and errors of FastAPI's own: the clients have no use for them.
_LEFT_OUT = re.compile(r"Body_|(HTTP)?ValidationError$")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or check them; the exit status."""
    parser = argparse.ArgumentParser(description="Write the HTTP clients' types.")
    parser.add_argument("--check", action="store_true", help="write nothing, name stale files")
    check = parser.parse_args(argv).check
    own, shared = _definitions()
    texts = {
        _HERE / "node" / "src" / "http" / "api.ts": typescript(own, shared),
        _HERE / "go" / "http" / "api.go": go(own, shared),
    }
    return generate.write_or_check(texts, check=check)


def typescript(own: dict[str, Schema], shared: set[str]) -> str:
    """The types as one TypeScript module."""
    used = ", ".join(sorted(_used(own) & shared))
    lines = [
        f"// Generated from {_SOURCE} by adapters/generate_http.py. Do not edit.",
        "",
        f'import type {{ {used} }} from "../protocol.js";',
    ]
    for name, definition in own.items():
        lines += ["", *generate._ts_comment(definition, "")]
        lines += [f"export interface {name} {{"]
        required = definition.get("required", ())
        for field, schema in definition["properties"].items():
            lines += generate._ts_comment(schema, "  ")
            lines.append(f"  {field}{'' if field in required else '?'}: {_ts_type(schema)};")
        lines.append("}")
    return "\n".join(lines) + "\n"


def _ts_type(schema: Schema) -> str:
    plain = generate._without_null(schema)
    if "enum" in plain:
        # A later server may say more than we know.
        return " | ".join([*map(json.dumps, plain["enum"]), "(string & {})"])
    return generate._ts_type(plain)


def go(own: dict[str, Schema], shared: set[str]) -> str:
    """The types as one Go file, in gofmt's form."""
    lines = [
        f"// Code generated from {_SOURCE} by adapters/generate_http.py. DO NOT EDIT.",
        "",
        "package upscaledhttp",
        "",
        'import upscaled "github.com/upscaled/upscaled/adapters/go"',
    ]
    theirs = re.compile(rf"(?<=[\]*\t ])({'|'.join(sorted(shared))})(?= +`json)")
    for name, definition in own.items():
        struct = generate._go_struct(name, definition)
        lines += ["", *(theirs.sub(r"upscaled.\1", line) for line in struct)]
    return "\n".join(_aligned(lines)) + "\n"


def _aligned(lines: list[str]) -> Iterator[str]:
    """The fields' columns, which a package's name has moved, under each other again."""
    block: list[list[str]] = []
    for line in lines:
        cells = line.split()
        if line.startswith("\t") and len(cells) == 3 and cells[2].startswith("`json"):
            block.append([f"\t{cells[0]}", *cells[1:]])
            continue
        yield from generate._columns(block)
        block = []
        yield line


def _definitions() -> tuple[dict[str, Schema], set[str]]:
    """The document's definitions, and the names of those that the protocol has."""
    document = json.loads((_HERE / "http" / "openapi.json").read_text("utf-8"))
    schemas: dict[str, Schema] = document["components"]["schemas"]
    shared = set(schemas) & set(_WORKER["$defs"]) - {"Health"}
    own = {
        name: _on_one_line(schema)
        for name, schema in schemas.items()
        if name not in shared and not _LEFT_OUT.search(name) and "properties" in schema
    }
    return own, shared


def _on_one_line(value: Any) -> Any:
    """The definition with the line breaks of its descriptions made spaces."""
    if isinstance(value, list):
        return [_on_one_line(one) for one in value]
    if isinstance(value, dict):
        return {
            name: " ".join(one.split())
            if name == "description" and isinstance(one, str)
            else _on_one_line(one)
            for name, one in value.items()
        }
    return value


def _used(own: dict[str, Schema]) -> set[str]:
    """The names of the definitions that these refer to."""
    return set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(own)))


if __name__ == "__main__":
    sys.exit(main())
