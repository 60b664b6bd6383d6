"""Maps failed calls to error codes, and decides if another attempt may help.

Texts of the SDK and of the HTTP library are not passed on, because they may quote a header. Of the
service's own text one short sentence is passed on, without the token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from aiohttp import ClientConnectorCertificateError
from google.auth.exceptions import GoogleAuthError, TransportError
from google.genai.errors import APIError

from upscaled_protocol.errors import ErrorCode, JobError

_DETAIL_CHARACTERS = 300
_BEARER = re.compile(r"bearer\s+\S+", re.IGNORECASE)
# Words of the service when its filters refuse a picture with a 400.
_FILTERED = re.compile(r"responsible ai|support code|safety", re.IGNORECASE)


@dataclass(frozen=True)
class Fault:
    """`error` ends the job, unless it is `retryable` and attempts are left.

    retry_after_s: the pause that the service asked for.
    """

    error: JobError
    retryable: bool = False
    retry_after_s: float = 0.0


def fault_of(error: Exception, secret: str | None) -> Fault:
    """The fault behind an exception of one call. `secret` is removed from all texts."""
    if isinstance(error, JobError):
        return Fault(error)
    if isinstance(error, APIError):
        return _of_status(error, secret)
    if isinstance(error, TimeoutError):
        return _unavailable("the cloud service did not answer in time", retryable=True)
    if isinstance(error, GoogleAuthError):
        return _of_sign_in(error)
    return _of_transport(error)


def _of_transport(error: Exception) -> Fault:
    if isinstance(error, ClientConnectorCertificateError):  # which is a ValueError, too
        return _unavailable("the cloud service's certificate is not trusted here")
    if isinstance(error, (ValueError, TypeError, LookupError, AttributeError, RecursionError)):
        # The service did answer, and may bill for it: another call could be paid for twice.
        return _unavailable("the cloud service's answer cannot be understood")
    return _unavailable(
        f"the connection to the cloud service failed ({type(error).__name__})", retryable=True
    )


def _of_sign_in(error: GoogleAuthError) -> Fault:
    if isinstance(error, TransportError) or error.retryable:
        return _unavailable("Google's sign-in could not be reached", retryable=True)
    return Fault(
        JobError(
            ErrorCode.UPSTREAM_AUTH,
            "Google refused the credentials before any call: renew them, or give others",
        )
    )


def _of_status(error: APIError, secret: str | None) -> Fault:
    status = error.code
    detail = _detail(error.message, secret)
    if status in (401, 403):
        return Fault(
            JobError(
                ErrorCode.UPSTREAM_AUTH,
                f"the cloud service refused the credentials ({status}): check project, region, "
                f"roles and token{detail}",
            )
        )
    if status == 429:
        quota = JobError(
            ErrorCode.UPSTREAM_QUOTA, f"the cloud service's quota is used up (429){detail}"
        )
        return Fault(quota, retryable=True, retry_after_s=_retry_after_s(error))
    if status in (408, 499) or status >= 500:
        return Fault(
            JobError(
                ErrorCode.UPSTREAM_UNAVAILABLE,
                f"the cloud service is not available ({status}){detail}",
            ),
            retryable=True,
            retry_after_s=_retry_after_s(error),
        )
    if status == 404:
        code, text = ErrorCode.MODEL_NOT_FOUND, "the cloud service knows no such model there (404)"
    elif status == 413:
        code, text = ErrorCode.INPUT_TOO_LARGE, "the picture is too large for the service (413)"
    elif status == 400 and _FILTERED.search(detail):
        code, text = ErrorCode.UPSTREAM_FILTERED, "the cloud service refused the picture (400)"
    elif status == 400:
        code, text = ErrorCode.INVALID_JOB, "the cloud service refused the request (400)"
    else:
        code, text = ErrorCode.UPSTREAM_UNAVAILABLE, f"the cloud service answered with {status}"
    return Fault(JobError(code, text + detail))


def filtered(reason: str, secret: str | None) -> JobError:
    """The error of a picture that the service's safety filter held back."""
    return JobError(
        ErrorCode.UPSTREAM_FILTERED,
        f"the cloud service's safety filter refused the picture{_detail(reason, secret)}",
    )


def _unavailable(text: str, *, retryable: bool = False) -> Fault:
    return Fault(JobError(ErrorCode.UPSTREAM_UNAVAILABLE, text), retryable)


def _detail(text: object, secret: str | None) -> str:
    """The service's own text as the end of a sentence; empty if there is none."""
    words = " ".join(str(text or "").split())
    if secret:
        words = words.replace(secret, "***")
    words = _BEARER.sub("***", words)
    return f": {words[:_DETAIL_CHARACTERS]}" if words else ""


def _retry_after_s(error: APIError) -> float:
    """Seconds of the Retry-After header, which may be a date (RFC 9110, 10.2.3); 0 without one."""
    headers: Any = getattr(error.response, "headers", None)
    value = headers.get("retry-after") if isinstance(headers, Mapping) else None
    if value is None:
        return 0.0
    try:
        return max(float(value), 0.0) if value.strip().isdecimal() else _until(value)
    except (ValueError, OverflowError):
        return 0.0


def _until(date: str) -> float:
    when = parsedate_to_datetime(date)
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)
