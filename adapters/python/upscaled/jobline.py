"""A job as one line of JSON.

A job that no daemon could read is refused here. A daemon cannot answer such a line under the job's
id, so its call would never end.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from upscaled.errors import UpscaledError, local_error
from upscaled_protocol.envelope import MAX_JOB_ID_LENGTH, MAX_TIMEOUT_S, PICTURE_METHODS
from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES, has_half_pair

# `fake` runs without a config. Methods of later daemons are theirs to judge.
_NEED_CONFIG = frozenset(PICTURE_METHODS)

# Half a surrogate pair. U+DC80 to U+DCFF are left out: each stands for one byte of a file name
# that is not UTF-8, as `os.fsdecode` gives it.
_HALF_PAIR = re.compile("[\ud800-\udc7f\udd00-\udfff]")

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class JobLine(NamedTuple):
    """A job that can be sent. line: with its newline."""

    job_id: str
    line: bytes
    timeout_s: float | None


def job_line(job: Mapping[str, Any], limit_bytes: int = DEFAULT_LINE_LIMIT_BYTES) -> JobLine:
    """The line of a job, which is given an id if it has none.

    Raises `InvalidJobError`: invalid_job, invalid_json or line_too_long.
    """
    if not isinstance(job, Mapping):
        raise _invalid(f"a job is a dict with a method and a config, not {_kind(job)}")
    job_id = job.get("job_id")
    if job_id is None:
        job_id = str(uuid.uuid4())
    check_id(job_id)
    _check_fields(job, job_id)
    line = line_of({**job, "job_id": job_id}, limit_bytes, job_id)
    return JobLine(job_id, line, job.get("timeout_s"))


def check_id(job_id: object) -> None:
    """Raise `InvalidJobError` if no job may have this id."""
    if not isinstance(job_id, str):
        raise _invalid(f"a job_id is a string, not {_kind(job_id)}")
    if not 1 <= len(job_id) <= MAX_JOB_ID_LENGTH:
        raise _invalid(f"a job_id has 1 to {MAX_JOB_ID_LENGTH} characters, not {len(job_id)}")
    if has_half_pair(job_id):
        raise _invalid(
            "a job_id is text, and this one has half a surrogate pair or bytes of a file name"
        )


def _check_fields(job: Mapping[str, Any], job_id: str) -> None:
    method, config, timeout_s = job.get("method"), job.get("config"), job.get("timeout_s")
    wrong = None
    if job.get("type", "job") != "job":
        wrong = 'a job\'s type is "job" or left out'
    elif not isinstance(method, str):
        wrong = f"a method is a string, not {_kind(method)}"
    elif method in _NEED_CONFIG if config is None else not isinstance(config, Mapping):
        wrong = f"a config is a dict, not {_kind(config)}"
    elif timeout_s is not None and not (
        isinstance(timeout_s, int | float)
        and not isinstance(timeout_s, bool)
        and 0 < timeout_s <= MAX_TIMEOUT_S
    ):
        given = timeout_s if isinstance(timeout_s, float) else _kind(timeout_s)
        wrong = f"timeout_s is a number above 0, at most {MAX_TIMEOUT_S:g}, not {given}"
    if wrong is not None:
        raise _invalid(wrong, job_id)


def line_of(
    message: Mapping[str, Any],
    limit_bytes: int = DEFAULT_LINE_LIMIT_BYTES,
    job_id: str | None = None,
) -> bytes:
    """The message as one line, with its newline. Raises `InvalidJobError` if the protocol cannot
    carry it."""
    try:
        text = _encode(message)
    except RecursionError:
        raise _too_deep(job_id) from None
    except (TypeError, ValueError) as error:
        # A set, bytes, a number that is not finite, a list that contains itself.
        raise _invalid(f"a value cannot be in JSON: {error}", job_id) from None
    if half := _HALF_PAIR.search(text):
        raise _invalid(
            f"a text has U+{ord(half[0]):04X}, half a surrogate pair, so it is cut or is not UTF-8",
            job_id,
        )
    # Only the bytes of a file name that is not UTF-8 are escaped here, in JSON's form.
    line = text.encode(errors="backslashreplace")
    if len(line) > limit_bytes:
        raise local_error(
            "line_too_long",
            f"a job's line has at most {limit_bytes} bytes, and this one has {len(line)}: "
            "give a path instead of base64",
            job_id,
        )
    try:
        # The daemon's parser refuses more than 1024 levels, and numbers above 1e308.
        orjson.loads(line if text.isascii() else text.encode(errors="replace"))
    except orjson.JSONDecodeError as error:
        if "ecursion" in str(error):
            raise _too_deep(job_id) from None
        text = f"a daemon cannot read the job: {error}"
        raise local_error("invalid_json", text, job_id) from None
    return line + b"\n"


def _invalid(sentence: str, job_id: str | None = None) -> UpscaledError:
    return local_error("invalid_job", sentence, job_id)


def _too_deep(job_id: str | None) -> UpscaledError:
    text = "a value is nested too deeply; the limit is 1024 levels"
    return local_error("invalid_json", text, job_id)


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
