"""The exceptions for a server's problems, of the same classes as for a daemon's errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from upscaled.errors import (
    FAMILIES,
    InputError,
    InvalidJobError,
    NotAllowedError,
    OutputError,
    QueueFullError,
    UpscaledError,
)

# The protocol's codes, and those that HTTP adds. Other codes are plain `UpscaledError`.
_FAMILIES: dict[str, type[UpscaledError]] = {
    **FAMILIES,
    "invalid_request": InvalidJobError,
    "idempotency_mismatch": InvalidJobError,
    "unauthorized": NotAllowedError,
    "origin_not_allowed": NotAllowedError,
    "host_not_allowed": NotAllowedError,
    "rate_limited": QueueFullError,
    "unsupported_media_type": InputError,
    "result_gone": OutputError,
    "insufficient_storage": OutputError,
}

TOO_MANY = 429
# A proxy in front of the server answers with these while the server restarts.
MAY_PASS = frozenset({408, 502, 503, 504})

# Characters of an answer that is no problem document.
_LONGEST_QUOTE = 200


def problem_error(status: int, body: bytes, job_id: str | None) -> UpscaledError:
    """The exception for an answer with another status than 2xx."""
    text = body.decode("utf-8", "replace")
    try:
        problem = json.loads(text)
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
        said = text.strip()[:_LONGEST_QUOTE]
        problem = {
            "detail": f"the server answered {status}" + (f": {said}" if said else ""),
            "retryable": status == TOO_MANY or status in MAY_PASS,
        }
    message = {"error": problem.get("detail"), "job_id": job_id, **_chosen(problem)}
    return http_error({name: value for name, value in message.items() if value is not None})


def http_error(message: Mapping[str, Any]) -> UpscaledError:
    """The exception for an `error` message whose code may be one of HTTP's."""
    code = message.get("code")
    job_id = message.get("job_id")
    return _FAMILIES.get(str(code), UpscaledError)(
        str(message.get("error") or "the job failed"),
        code=code if isinstance(code, str) else None,
        retryable=message.get("retryable") is True,
        job_id=job_id if isinstance(job_id, str) else None,
        details=message,
    )


def _chosen(problem: Mapping[str, Any]) -> dict[str, Any]:
    return {name: problem[name] for name in ("code", "retryable", "errors") if name in problem}
