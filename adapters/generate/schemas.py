"""The schemas that the types are written from, and what the languages have in common.

`HOST`, `WORKER` and `ERRORS` are the protocol's; `read_api` reads the HTTP server's.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

Schema = dict[str, Any]

ADAPTERS = Path(__file__).resolve().parents[1]
_PROTOCOL = ADAPTERS.parent / "protocol" / "schema"
_OPENAPI = ADAPTERS / "http" / "openapi.json"
# Named in the first line of each generated file.
FROM_PROTOCOL = "protocol/schema"
FROM_OPENAPI = "adapters/http/openapi.json"

HOST, WORKER, ERRORS = (
    json.loads((_PROTOCOL / f"{name}.json").read_text("utf-8"))
    for name in ("host", "worker", "errors")
)
ENUMS = {
    name
    for schema in (HOST, WORKER)
    for name, definition in schema["$defs"].items()
    if "enum" in definition
}
# TypeScript, Go and Python have an Error of their own, or return errors under that name.
RENAMED = {"Error": "ErrorMessage"}
# Set by supervisors alone, so no client has these fields.
LEFT_OUT = {("Job", "attempt"), ("Job", "accepted_as")}

# Bodies of requests and errors of FastAPI's own: the clients have no use for them.
_NOT_IN_CLIENTS = re.compile(r"Body_|(HTTP)?ValidationError$")


class Api(NamedTuple):
    """The HTTP server's definitions. shared: the names of those that the protocol has too."""

    own: dict[str, Schema]
    shared: set[str]

    def used(self) -> set[str]:
        """The names of the protocol's definitions that the own ones refer to."""
        named = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(self.own))
        return set(named) & self.shared


def read_api() -> Api:
    """The definitions of the OpenAPI document."""
    document = json.loads(_OPENAPI.read_text("utf-8"))
    schemas: dict[str, Schema] = document["components"]["schemas"]
    # `Health` of the server is another message than the protocol's question of that name.
    shared = set(schemas) & set(WORKER["$defs"]) - {"Health"}
    own = {
        name: _on_one_line(schema)
        for name, schema in schemas.items()
        if name not in shared and not _NOT_IN_CLIENTS.search(name) and "properties" in schema
    }
    return Api(own, shared)


def without_null(schema: Schema) -> Schema:
    """The schema of the value if there is one: absent and null mean the same."""
    members: list[Schema] = schema.get("anyOf") or schema.get("allOf") or [schema]
    return next(member for member in members if member.get("type") != "null")


def referred_name(schema: Schema) -> str:
    """The name of the type that a `$ref` refers to."""
    name = str(schema["$ref"]).rpartition("/")[2]
    return RENAMED.get(name, name)


def _on_one_line(value: Any) -> Any:
    """The definition, with the line breaks of its descriptions made spaces."""
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
