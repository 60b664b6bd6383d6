"""Lines to messages and back: one JSON object per line, UTF-8, ended by a newline."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from upscaled_protocol.envelope import (
    Command,
    Envelope,
    Method,
    WorkerType,
    open_envelope,
    quote,
)
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.lines import decode_line, encode_line
from upscaled_protocol.messages import (
    COMMANDS,
    CONFIGS,
    JOBS,
    HostMessages,
    Job,
    WorkerMessages,
)

if TYPE_CHECKING:
    # The names in `envelope.py` are written by hand, because it works without pydantic. If
    # `messages.py` has a name that the envelope lacks, mypy reports it here.
    def _host_type(message: HostMessages) -> Literal["job"] | Command:
        return message.type

    def _worker_type(message: WorkerMessages) -> WorkerType:
        return message.type

    def _method(job: Job) -> Method:
        return job.method


# No config has as many fields. Each unknown field costs about 1 KB for its complaint, so a line of
# 32 MiB could cost gigabytes.
_CONFIG_FIELDS_LIMIT = 100
# Complaints in one error, and names in one list of warnings: enough to correct a host.
_NAMES_LIMIT = 5
# No field has a name as long. Of a longer one this part is compared with the fields.
_NAME_LIMIT = 40


def decode_host_message(line: bytes) -> HostMessages:
    """Read and check one host line.

    Raises `JobError`, with the line's job_id if the line has a usable one: invalid_json,
    invalid_job (one sentence names every wrong field) or unknown_method.
    """
    return validate(open_envelope(line))


def validate(envelope: Envelope) -> HostMessages:
    """The full message behind an envelope. Raises `JobError` (invalid_job)."""
    model: type[HostMessages]
    model = JOBS[envelope.method] if envelope.type == "job" else COMMANDS[envelope.type]
    config = envelope.fields.get("config")
    if isinstance(config, dict) and len(config) > _CONFIG_FIELDS_LIMIT:
        raise JobError(
            ErrorCode.INVALID_JOB,
            f"config has {len(config)} fields; no method knows more than {_CONFIG_FIELDS_LIMIT}",
            job_id=envelope.job_id,
        )
    try:
        return model.model_validate(envelope.fields)
    except ValidationError as error:
        fields = CONFIGS[envelope.method].model_fields if envelope.method else ()
        sentence = "; ".join(_complaints(error, fields))
        raise JobError(ErrorCode.INVALID_JOB, sentence, job_id=envelope.job_id) from None


def unknown_fields(message: HostMessages) -> list[str]:
    """The names of the fields that were ignored, quoted and sorted; only the first if there are
    many."""
    return [quote(name) for name in sorted(message.model_extra or {})[:_NAMES_LIMIT]]


@cache
def _worker_messages() -> TypeAdapter[Any]:
    return TypeAdapter(WorkerMessages)


def decode_worker_message(line: bytes) -> WorkerMessages:
    """Read one line of a worker, strictly: it must be a message of exactly this version.

    A host must not use this, because it has to ignore what a later version adds. Raises
    `pydantic.ValidationError`.
    """
    message: WorkerMessages
    try:
        message = _worker_messages().validate_json(line, strict=True)
    except ValidationError as error:
        if error.errors()[0]["type"] != "json_invalid":
            raise
        try:  # pydantic's parser refuses half a surrogate pair
            fields = decode_line(line)
        except ValueError:
            raise error from None
        message = _worker_messages().validate_python(fields)
    return message


def encode(message: BaseModel) -> bytes:
    """One line, newline included. Fields that are None are left out, except `job_id`."""
    fields = message.model_dump(exclude_none=True)
    if getattr(message, "job_id", "") is None:
        fields = {"type": fields.pop("type"), "job_id": None, **fields}
    return encode_line(fields)


def _complaints(error: ValidationError, config_fields: Iterable[str]) -> Iterator[str]:
    for detail in error.errors(include_url=False, include_input=False)[:_NAMES_LIMIT]:
        *path, name = ("", *detail["loc"])
        if detail["type"] == "extra_forbidden":
            close = difflib.get_close_matches(str(name)[:_NAME_LIMIT], config_fields, n=1)
            hint = f"; did you mean {quote(close[0])}?" if close else ""
            yield f"{'.'.join(map(str, path[1:]))} has no field {quote(name)}{hint}"
            continue
        field = ".".join(map(str, detail["loc"]))
        if detail["type"] == "missing":
            yield f"{field} is missing"
        elif detail["type"] == "model_type":
            yield f"{field} must be an object"
        else:
            text = detail["msg"].removeprefix("Value error, ")
            if detail["type"] == "string_unicode":
                text = "half a surrogate pair is no text; send the whole character"
            elif detail["type"] == "bool_type":
                text = "Input should be true or false"
            yield f"{field}: {text}" if detail["loc"] else text
