"""Makes objects of the classes in `protocol` of a daemon's messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Message = dict[str, Any]

M = TypeVar("M")


def names_of(kind: type[Any]) -> frozenset[str]:
    """The names of the fields of this kind of message."""
    return frozenset(kind.__dataclass_fields__)


def read(kind: type[M], fields: Mapping[str, Any]) -> M:
    """A message of this kind. A field that is missing, or has another shape than in the class, gets
    its default: a later daemon may send other fields, and the end of a job must not be lost."""
    message = kind()
    known = kind.__dataclass_fields__  # type: ignore[attr-defined]
    parts: dict[str, tuple[str, Any]] = getattr(kind, "PARTS", {})
    for name, value in fields.items():
        if name not in known or value is None:
            continue
        if name not in parts:
            setattr(message, name, value)
            continue
        shape, part = parts[name]
        if shape == "one" and isinstance(value, dict):
            setattr(message, name, read(part, value))
        elif shape == "list" and isinstance(value, list):
            setattr(message, name, [read(part, one) for one in value if isinstance(one, dict)])
        elif shape == "map" and isinstance(value, dict):
            rows = {key: read(part, one) for key, one in value.items() if isinstance(one, dict)}
            setattr(message, name, rows)
    return message
