"""A worker's lines, checked, because a worker with damaged memory may write anything.

By hand, because pydantic would double a supervisor's start. Every field that a supervisor reads has
its type checked; the others reach the host as they came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from upscaled_protocol.lines import decode_line

# Beyond it there are infinity, and integers that no float holds.
_LARGEST = 1e308

Check = Callable[[Any], bool]


def read_message(line: bytes) -> dict[str, Any] | None:
    """What a worker says; None if it is no message that a supervisor can rely on.

    An absent field and one that is null mean the same, so a check of an optional field takes None.
    """
    try:
        fields = decode_line(line)
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    kind, known = fields.get("type"), _MESSAGES
    if kind == "status":
        kind, known = fields.get("message"), _STATUSES
    checks = known.get(kind) if isinstance(kind, str) else None
    if checks is None or not all(check(fields.get(name)) for name, check in checks.items()):
        return None
    return fields


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST


def _is_percent(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 100


def _is_budget(value: Any) -> bool:
    return _is_number(value) and value > 0


def _are_slots(value: Any) -> bool:
    return type(value) is int and value >= 1  # a lane without slots would never take its jobs


def _is_pid(value: Any) -> bool:
    return type(value) is int and 1 < value < 2**31


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _are_texts(value: Any) -> bool:
    return type(value) is list and all(map(_is_text, value))


def _are_lanes(value: Any) -> bool:
    return type(value) is dict and all(
        type(lane) is dict and _are_texts(lane.get("methods")) and _are_slots(lane.get("slots"))
        for lane in value.values()
    )


def _are_reasons(value: Any) -> bool:
    return type(value) is dict and all(map(_is_text, value.values()))


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


_MESSAGES: dict[str, dict[str, Check]] = {
    "result": {"job_id": _is_text},
    "progress": {
        "job_id": _is_text,
        "progress": _is_percent,
        "stage": _is_text,
        "budget_s": _or_none(_is_budget),
    },
    "error": {"job_id": _or_none(_is_text), "code": _is_text},
    "health": {
        "models_loaded": _are_texts,
        "gpu_available": _or_none(_is_flag),
        "gpu_name": _or_none(_is_text),
        "gpu_memory_free": _or_none(_is_number),
    },
}
# By the status' message.
_STATUSES: dict[str, dict[str, Check]] = {
    "ready": {
        "methods": _are_texts,
        "unavailable": _or_none(_are_reasons),
        "lanes": _are_lanes,
        "pid": _is_pid,
        "device": _or_none(_is_text),
        "detail": _or_none(_is_text),
    },
    "loading_models": {},
    "degraded": {},
    "draining": {"detail": _or_none(_is_text)},
    "stopped": {},
}
