"""The fields of a request: their names, their schema, and the check of a config's values.

A job has the fields of its method's config, and `JOB_FIELDS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import ValidationError

from upscaled_http.messages import FieldError, Retention
from upscaled_http.problems import ProblemError, sentence_of
from upscaled_protocol.configs import Config
from upscaled_protocol.envelope import MAX_PRIORITY
from upscaled_protocol.errors import ErrorCode
from upscaled_protocol.messages import CONFIGS

# Field names of other services' clients.
ALIASES = {
    "scale": "upscale_factor",
    "model_name": "model",
    "format": "output_format",
    "img_url": "image_url",
}
# Clients give no paths, and fetch results by their address.
HIDDEN = frozenset({"image_path", "image_base64", "output_path", "output_base64", "output_url"})
JOB_FIELDS = ("priority", "timeout_s", "label", "retention", "webhook")
MAX_LABEL = 100


def take_aliases(values: dict[str, Any]) -> dict[str, str]:
    """Rename the aliases. Returns the name that the client gave, by our name. Raises `ProblemError`
    if a field is given under two names."""
    given_as = {}
    for alias, name in ALIASES.items():
        if alias not in values:
            continue
        if name in values:
            raise ProblemError.field(alias, f"{alias} and {name} mean the same: give one of them.")
        values[name] = values.pop(alias)
        given_as[name] = alias
    return given_as


def read_config(
    method: str, values: dict[str, Any], given_as: Mapping[str, str], *, is_text: bool
) -> Config:
    """The config of these values. given_as: as `take_aliases` returns it. is_text: the values are
    texts. Raises `ProblemError`, which names each wrong field as the client gave it."""
    kind = CONFIGS[method]
    try:
        return (
            # The server's own defaults are numbers.
            kind.model_validate_strings({name: str(values[name]) for name in values}, strict=False)
            if is_text
            else kind.model_validate(values)
        )
    except ValidationError as error:
        faults = [_field_error(fault, method, given_as) for fault in error.errors()]
    raise ProblemError(
        ErrorCode.INVALID_JOB, " ".join(fault.detail for fault in faults), errors=faults
    )


def unknown_field(name: str, method: str) -> ProblemError:
    """The refusal of a field that the method does not have, with the closest name that it has."""
    known = {*CONFIGS[method].model_fields, *JOB_FIELDS, *ALIASES} - HIDDEN
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    text = f"{method} has no field {quoted(name)}{hint}"
    return ProblemError.field(name[:100], text, ErrorCode.INVALID_JOB)


def quoted(value: object) -> str:
    """A client's value for an error text, cut short."""
    text = value if isinstance(value, str) else type(value).__name__
    return f"'{text[:64]}'" if text.isprintable() else "of that name"


def form_fields() -> dict[str, Any]:
    """The fields of all methods, as JSON Schema, without aliases and without the test partner's. A
    client sends those of its method."""
    fields: dict[str, Any] = {}
    for method, kind in CONFIGS.items():
        if method == "fake":
            continue
        for name, schema in kind.model_json_schema()["properties"].items():
            if name in HIDDEN or name == "image_url":
                continue
            known = fields.setdefault(name, schema)
            if known != schema:
                options = known.get("anyOf", [known])
                fields[name] = {"anyOf": [*options, schema]} if schema not in options else known
    return fields | {
        "priority": {
            "type": "integer",
            "minimum": -MAX_PRIORITY,
            "maximum": MAX_PRIORITY,
            "default": 0,
            "description": "Higher first, among all jobs of the server.",
        },
        "timeout_s": {"type": "number", "exclusiveMinimum": 0},
        "label": {
            "type": "string",
            "maxLength": MAX_LABEL,
            "description": "Your own name for the job.",
        },
        "retention": {"type": "string", "enum": list(get_args(Retention))},
        "webhook": {"type": "string", "format": "uri", "description": "Gets the job's end."},
    }


def check_field_names(names: Iterable[str], limit: int = 64) -> None:
    """Raise `ProblemError` if a name occurs twice, or if there are more than `limit`."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ProblemError.field(name[:100], f"The field {quoted(name)} is given twice.")
        seen.add(name)
    if len(seen) > limit:
        raise too_many_fields(limit)


def too_many_fields(limit: int) -> ProblemError:
    """The refusal of a request with more fields."""
    return ProblemError.field("", f"There are more than {limit} fields.")


def _field_error(fault: Mapping[str, Any], method: str, given_as: Mapping[str, str]) -> FieldError:
    name = str(fault["loc"][0]) if fault["loc"] else ""
    given = given_as.get(name, name)[:100]
    if fault["type"] == "extra_forbidden":
        return unknown_field(given, method).problem.errors[0]
    text = str(fault["msg"]).removeprefix("Value error, ")
    if not given:
        return FieldError(field="", detail=sentence_of(text))
    return FieldError(field=given, detail=f"{given}: {text}.")
