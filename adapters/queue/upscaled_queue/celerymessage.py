"""The form of Celery's messages.

Everyone who can write to the queue can put anything into it. Celery refuses an unknown task and a
body that is not JSON, but other faults end its worker, and then the next worker, because the
message comes again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

_Types = Mapping[str, type | tuple[type, ...]]

_NONE = type(None)
_TEXT = (str, _NONE)
# What kombu reads of an item of a list in Redis, before Celery gets it.
_ENVELOPE: _Types = {
    "properties": dict,
    "headers": (dict, _NONE),
    "body": _TEXT,
    "content-type": _TEXT,
    "content-encoding": _TEXT,
}
_PROPERTIES: _Types = {"delivery_tag": str, "delivery_info": dict}
# What Celery reads.
_HEADERS: _Types = {
    "id": str,
    "task": str,
    "root_id": _TEXT,
    "parent_id": _TEXT,
    "group": _TEXT,
    "eta": _TEXT,
    "expires": _TEXT,
    "retries": (int, _NONE),
    "timelimit": (list, tuple, _NONE),
    "stamped_headers": (list, tuple, _NONE),
}
# The hard one and the soft one.
_TIME_LIMITS = 2
# The three parts of a body: the task's arguments, its named arguments, and what comes after it.
_BODY: Sequence[tuple[type, ...]] = ((list, tuple), (dict,), (dict, _NONE))
_NEXT: _Types = {
    "callbacks": (list, _NONE),
    "errbacks": (list, _NONE),
    "chain": (list, _NONE),
    "chord": (dict, _NONE),
}
# A body of Celery's first protocol, which has no headers.
_OLD_BODY: _Types = {"task": str, "id": str, "args": (list, _NONE), "kwargs": (dict, _NONE)}


class UnreadableMessageError(ValueError):
    """Raised for a message that no worker can read. `str(error)` says what is wrong with it, and
    shows nothing of it."""


def read_item(item: str | bytes) -> dict[str, Any]:
    """The message of an item of a queue's list in Redis, for kombu. Raises
    `UnreadableMessageError`."""
    try:
        # Not orjson, which refuses half a surrogate pair: a path may have one.
        message = json.loads(item)
    except (ValueError, RecursionError):
        raise UnreadableMessageError("it is not JSON") from None
    if not isinstance(message, dict):
        raise UnreadableMessageError("it is no object")
    _check(message, _ENVELOPE)
    properties = message["properties"]
    _check(properties, _PROPERTIES)
    encoding = properties.get("body_encoding")
    if encoding and encoding != "base64":
        raise UnreadableMessageError("its body_encoding is not base64")
    if encoding:
        try:
            base64.b64decode(message.get("body") or "", validate=True)
        except ValueError:
            raise UnreadableMessageError("its body is not base64") from None
    return message


def check_message(message: Any) -> None:
    """Raise `UnreadableMessageError` if Celery cannot read this message of kombu. What is decoded
    for this is not decoded again."""
    headers = message.headers
    if not isinstance(headers, dict):
        raise UnreadableMessageError("its headers are no object")
    try:
        body = message.payload
    except Exception:  # noqa: BLE001 - of any codec
        raise UnreadableMessageError("its body cannot be decoded") from None
    if "task" not in headers:
        if not isinstance(body, dict):
            raise UnreadableMessageError("it names no task")
        _check(body, _OLD_BODY)
        return
    _check(headers, _HEADERS)
    limits = headers.get("timelimit")
    if limits is not None and len(limits) != _TIME_LIMITS:
        raise UnreadableMessageError("its timelimit is no pair")
    if not isinstance(body, list | tuple) or len(body) != len(_BODY):
        raise UnreadableMessageError("its body is no list of arguments, named arguments, options")
    if not all(isinstance(part, types) for part, types in zip(body, _BODY, strict=True)):
        raise UnreadableMessageError("a part of its body has the wrong type")
    _check(body[-1] or {}, _NEXT)


def _check(fields: Mapping[str, Any], forms: _Types) -> None:
    for name, types in forms.items():
        if not isinstance(fields.get(name), types):
            raise UnreadableMessageError(f"its {name} is missing, or of the wrong type")
