"""The protocol as JSON Schema, generated from the models, for hosts in other languages.

`python -m upscaled_protocol.schema [FOLDER]` writes `host.json`, `worker.json` and `errors.json`,
by default into `protocol/schema`. With `--check` it writes nothing and names the stale files.
Client types are generated from these files, so every object and every enumeration in them has a
name.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from upscaled_protocol import PROTOCOL_VERSION, configs, messages
from upscaled_protocol.errors import MEANINGS
from upscaled_protocol.generatedfiles import write_or_check
from upscaled_protocol.messages import COMMANDS, JOBS, JsonObject, WorkerMessages, constant

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# The names that enumerations have in Python.
_ENUM_NAMES = {
    get_args(value): name
    for module in (configs, messages)
    for name, value in vars(module).items()
    if get_origin(value) is Literal
}


def documents() -> dict[str, JsonObject]:
    """The content of each schema file, by file name."""
    return {
        "host.json": _host_schema(),
        "worker.json": _worker_schema(),
        "errors.json": {
            "$id": f"urn:upscaled:protocol:{PROTOCOL_VERSION}:errors",
            "protocol": PROTOCOL_VERSION,
            "codes": {
                code.value: {"retryable": meaning.retryable, "meaning": meaning.raised_when}
                for code, meaning in MEANINGS.items()
            },
        },
    }


def texts() -> dict[str, str]:
    """Each file's content by the file's name."""
    return {
        name: json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        for name, document in documents().items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status: 1 if `--check` has found a stale file, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m upscaled_protocol.schema", description="Write the JSON Schema."
    )
    parser.add_argument("directory", nargs="?", type=Path, default=Path("protocol/schema"))
    parser.add_argument("--check", action="store_true", help="write nothing, name stale files")
    options = parser.parse_args(argv)
    return write_or_check(options.directory, texts(), check=options.check)


def _host_schema() -> JsonObject:
    definitions = _definitions([*JOBS.values(), *COMMANDS.values()])
    definitions["Job"] = {
        "title": "Job",
        "description": "The only message that may leave out its type.",
        **_union("method", {method: job.__name__ for method, job in JOBS.items()}),
    }
    names = {"job": "Job", **{kind: model.__name__ for kind, model in COMMANDS.items()}}
    return _document("host", "HostMessage", "What a host sends.", names, definitions)


def _worker_schema() -> JsonObject:
    models: list[type[BaseModel]] = list(get_args(get_args(WorkerMessages)[0]))
    definitions = _definitions(models)
    for model in models:
        definition = definitions[model.__name__]
        definition["required"] = ["type", *definition.get("required", [])]
    names = {constant(model, "type"): model.__name__ for model in models}
    return _document("worker", "WorkerMessage", "What a worker sends.", names, definitions)


def _document(
    name: str, title: str, description: str, types: dict[str, str], definitions: JsonObject
) -> JsonObject:
    return {
        "$schema": _DIALECT,
        "$id": f"urn:upscaled:protocol:{PROTOCOL_VERSION}:{name}",
        "title": title,
        "description": description,
        **_union("type", types),
        "$defs": dict(sorted(definitions.items())),
    }


def _union(property_name: str, names: dict[str, str]) -> JsonObject:
    mapping = {value: f"#/$defs/{name}" for value, name in names.items()}
    return {
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
        "discriminator": {"propertyName": property_name, "mapping": mapping},
    }


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False  # type generators make a type of every property that has a title


def _definitions(models: Iterable[type[BaseModel]]) -> JsonObject:
    _, schema = models_json_schema(
        [(model, "validation") for model in models], schema_generator=_Generator
    )
    definitions: JsonObject = schema["$defs"]
    for name, definition in definitions.items():
        # A later release may add fields to messages. Configs refuse unknown fields.
        if not hasattr(configs, name):
            definition.pop("additionalProperties", None)
    enums: JsonObject = {}
    _name_enums(definitions, enums)
    return definitions | enums


def _name_enums(node: Any, enums: JsonObject) -> None:
    """Replace each enumeration that has a name by a reference; put descriptions on one line."""
    if isinstance(node, list):
        for item in node:
            _name_enums(item, enums)
    elif isinstance(node, dict):
        if isinstance(node.get("description"), str):
            node["description"] = " ".join(node["description"].split())
        name = _ENUM_NAMES.get(tuple(node.get("enum", ())))
        if name is not None:
            enums[name] = {"title": name, "type": node.pop("type"), "enum": node.pop("enum")}
            reference = {"$ref": f"#/$defs/{name}"}
            # Some generators copy the definition if a bare reference has other fields beside it.
            node.update({"allOf": [reference]} if node else reference)
        for value in node.values():
            _name_enums(value, enums)


if __name__ == "__main__":
    sys.exit(main())
