"""The part of a host's line that a supervisor reads. It forwards the rest unread.

Without pydantic, so that a supervisor starts fast and needs one JSON parse per line.
`test_envelope` proves that this reading and the models in `messages.py` agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.jobid import read_job_id
from upscaled_protocol.lines import decode_line, encode_line, has_half_pair

Method = Literal["esrgan", "flux", "imagen", "face", "fake"]
METHODS: tuple[Method, ...] = get_args(Method)
# The methods whose jobs have a picture.
PICTURE_METHODS: tuple[Method, ...] = tuple(method for method in METHODS if method != "fake")
# What `pip install 'upscaled[…]'` adds for a method. The others need none.
_EXTRAS: dict[str, str] = {"flux": "flux", "imagen": "imagen", "face": "faces"}
Command = Literal["cancel", "health", "trim", "replay", "shutdown"]
COMMANDS: tuple[Command, ...] = get_args(Command)
# The type of a worker's message.
WorkerType = Literal["status", "accepted", "progress", "result", "error", "health"]

MAX_JOB_ID_LENGTH = 128
MAX_REQUEST_ID_LENGTH = 128
MAX_ACCEPTED_AS_LENGTH = 64
MAX_PRIORITY = 1_000_000
MAX_TIMEOUT_S = 604_800.0  # a week
DEFAULT_MAX_ATTEMPTS = 2
MAX_ATTEMPTS_LIMIT = 100

# The stage of a job that waits for the device. Its stall clock stands still until its next
# progress, whose stage is RUNNING_STAGE if the engine has no better name for it.
WAITING_STAGE = "waiting"
RUNNING_STAGE = "running"

# Characters: enough to recognise a field or method that was misspelt.
_QUOTE_LENGTH = 64


def not_served(method: str, served: Iterable[str]) -> str:
    """The error of a job whose method no worker of this daemon serves."""
    extra = _EXTRAS.get(method)
    need = "name it in --methods"
    if extra is not None:
        need = f"it needs `pip install 'upscaled[{extra}]'`; `upscaled doctor` says what is missing"
    return f"method {method!r} is not served here; served: {', '.join(sorted(served))}; {need}"


class Envelope(NamedTuple):
    """One host line, read as far as routing needs. `fields` is the whole parsed object."""

    type: Literal["job"] | Command
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
    the line's job_id if one can be read from it."""
    try:
        fields = decode_line(line)
    except ValueError as error:
        refusal = JobError(ErrorCode.INVALID_JSON, f"the line is not JSON: {error}")
        raise attribute(refusal, read_job_id(line)) from None
    if not isinstance(fields, dict):
        raise JobError(ErrorCode.INVALID_JSON, "the line is not a JSON object")
    job_id = fields.get("job_id")
    usable = _is_id(job_id, MAX_JOB_ID_LENGTH)
    kind = fields.get("type", "job")
    try:
        if kind == "job":
            return _open_job(fields, usable)
        command = next((name for name in COMMANDS if name == kind), None)
        if command is None:
            raise JobError(
                ErrorCode.UNKNOWN_METHOD,
                f"unknown message type {quote(kind)}; known: job, {', '.join(COMMANDS)}",
            )
        if command == "cancel" and not usable:
            raise _bad_job_id()
        request_id = _request_id(fields) if command in ("health", "trim") else None
        return Envelope(command, job_id if usable else None, fields, request_id=request_id)
    except JobError as error:
        raise attribute(error, job_id) from None


def attribute(error: JobError, job_id: object) -> JobError:
    """Set the id of the line that an error answers. job_id: the line's value under that name."""
    if isinstance(job_id, str) and 1 <= len(job_id) <= MAX_JOB_ID_LENGTH:
        error.job_id = job_id  # even with half a surrogate pair: the host uses it as the id
    elif isinstance(job_id, str):
        error.refused_job_id = job_id[:MAX_JOB_ID_LENGTH]
    elif isinstance(job_id, bool | int | float):
        error.refused_job_id = _json(job_id)[:MAX_JOB_ID_LENGTH]
    return error


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
    if value is None:
        return None
    if _is_id(value, MAX_REQUEST_ID_LENGTH):
        return str(value)
    raise JobError(
        ErrorCode.INVALID_JOB,
        f"request_id must be a string of 1 to {MAX_REQUEST_ID_LENGTH} characters, or left out",
    )


def _is_id(value: object, max_length: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= max_length and not has_half_pair(value)


def _bad_job_id() -> JobError:
    return JobError(
        ErrorCode.INVALID_JOB,
        f"job_id must be a string of 1 to {MAX_JOB_ID_LENGTH} Unicode characters",
    )


def quote(value: object) -> str:
    """A host's value for an error text, cut short. An error line must not repeat megabytes, and
    printing a deeply nested value would overflow the stack."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return _json(value if len(value) <= _QUOTE_LENGTH else value[:_QUOTE_LENGTH] + "...")
    return _json(value)[:_QUOTE_LENGTH]


def _json(value: object) -> str:
    return encode_line(value).decode().rstrip("\n")
