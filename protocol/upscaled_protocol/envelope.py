"""The part of a host's line that a supervisor reads; everything else it forwards untouched.

Kept free of pydantic: a supervisor starts in a fraction of the time, and a line costs it one JSON
parse. `test_envelope` proves that this reading and the models in `messages.py` agree.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import orjson

from upscaled_protocol.errors import ErrorCode, JobError

METHODS = ("esrgan", "flux", "imagen", "fake")
COMMANDS = ("cancel", "health", "trim", "replay", "shutdown")

MAX_JOB_ID_LENGTH = 128
MAX_REQUEST_ID_LENGTH = 128
MAX_ACCEPTED_AS_LENGTH = 64
MAX_PRIORITY = 1_000_000
MAX_TIMEOUT_S = 604_800.0  # a week
DEFAULT_MAX_ATTEMPTS = 2
MAX_ATTEMPTS_LIMIT = 100

# The stage of a job that waits for the device: off the stall clock until its next progress,
# which says RUNNING_STAGE where the engine has nothing better to say.
WAITING_STAGE = "waiting"
RUNNING_STAGE = "running"

# Long enough to recognise any field or method that somebody misspelt.
_QUOTE_LENGTH = 64


class Envelope(NamedTuple):
    """One host line, read as far as routing needs. `fields` is the whole parsed object."""

    type: str
    job_id: str | None
    fields: dict[str, Any]
    method: str = ""
    priority: int = 0
    timeout_s: float | None = None
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    attempt: int = 1
    request_id: str | None = None


def open_envelope(line: bytes) -> Envelope:
    """Read one line. Raises `JobError` (invalid_json, invalid_job, unknown_method), which carries
    the line's job_id where it has a usable one."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise JobError(ErrorCode.INVALID_JSON, f"the line is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise JobError(ErrorCode.INVALID_JSON, "the line is not a JSON object")
    job_id = fields.get("job_id")
    usable = isinstance(job_id, str) and 1 <= len(job_id) <= MAX_JOB_ID_LENGTH
    kind = fields.get("type", "job")
    try:
        if kind == "job":
            return _open_job(fields, usable)
        if kind not in COMMANDS:
            raise JobError(
                ErrorCode.UNKNOWN_METHOD,
                f"unknown message type {quote(kind)}; known: job, {', '.join(COMMANDS)}",
            )
        if kind == "cancel" and not usable:
            raise _bad_job_id()
        request_id = _request_id(fields) if kind in ("health", "trim") else None
        return Envelope(kind, job_id if usable else None, fields, request_id=request_id)
    except JobError as error:
        error.job_id = job_id if usable else None
        raise


def _open_job(fields: dict[str, Any], usable_id: bool) -> Envelope:
    if not usable_id:
        raise _bad_job_id()
    method = fields.get("method")
    if method is None:
        raise JobError(ErrorCode.INVALID_JOB, f"method is missing; one of {', '.join(METHODS)}")
    if not isinstance(method, str) or method not in METHODS:
        raise JobError(
            ErrorCode.UNKNOWN_METHOD,
            f"unknown method {quote(method)}; known: {', '.join(METHODS)}",
        )
    timeout_s = fields.get("timeout_s")
    if timeout_s is not None and not (
        isinstance(timeout_s, int | float)
        and not isinstance(timeout_s, bool)
        and math.isfinite(timeout_s)
        and 0 < timeout_s <= MAX_TIMEOUT_S
    ):
        raise JobError(
            ErrorCode.INVALID_JOB, f"timeout_s must be a number above 0, at most {MAX_TIMEOUT_S:g}"
        )
    accepted_as = fields.get("accepted_as")
    if accepted_as is not None and not (
        isinstance(accepted_as, str) and len(accepted_as) <= MAX_ACCEPTED_AS_LENGTH
    ):
        raise JobError(
            ErrorCode.INVALID_JOB,
            f"accepted_as must be a string of at most {MAX_ACCEPTED_AS_LENGTH} characters",
        )
    return Envelope(
        "job",
        fields["job_id"],
        fields,
        method,
        _integer(fields, "priority", 0, -MAX_PRIORITY, MAX_PRIORITY),
        timeout_s,
        _integer(fields, "max_attempts", DEFAULT_MAX_ATTEMPTS, 1, MAX_ATTEMPTS_LIMIT),
        _integer(fields, "attempt", 1, 1, None),
    )


def _integer(fields: dict[str, Any], name: str, default: int, low: int, high: int | None) -> int:
    value = fields.get(name, default)
    if type(value) is int and value >= low and (high is None or value <= high):
        return value
    bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
    raise JobError(ErrorCode.INVALID_JOB, f"{name} must be a whole number {bounds}")


def _request_id(fields: dict[str, Any]) -> str | None:
    value = fields.get("request_id")
    if value is None or (isinstance(value, str) and 1 <= len(value) <= MAX_REQUEST_ID_LENGTH):
        return value
    raise JobError(
        ErrorCode.INVALID_JOB,
        f"request_id must be a string of 1 to {MAX_REQUEST_ID_LENGTH} characters, or left out",
    )


def _bad_job_id() -> JobError:
    return JobError(
        ErrorCode.INVALID_JOB, f"job_id must be a string of 1 to {MAX_JOB_ID_LENGTH} characters"
    )


def quote(value: object) -> str:
    """A host's value in a sentence, cut short: an error line must not echo megabytes, nor a
    deeply nested value overflow the stack as it is printed."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str) and len(value) > _QUOTE_LENGTH:
        value = value[:_QUOTE_LENGTH] + "..."
    return orjson.dumps(value).decode()
