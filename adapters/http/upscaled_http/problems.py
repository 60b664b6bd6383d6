"""Errors of the HTTP API (RFC 9457): one exception, and the status of each code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Self

from starlette.responses import Response

from upscaled_http.messages import FieldError, Problem
from upscaled_protocol.errors import MEANINGS, ErrorCode
from upscaled_protocol.messages import CONFIGS

MEDIA_TYPE = "application/problem+json"


class HttpCode(StrEnum):
    """The codes that HTTP adds to the protocol's. They are as stable as those."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHORIZED = "unauthorized"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    HOST_NOT_ALLOWED = "host_not_allowed"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_ACCEPTABLE = "not_acceptable"
    UPLOAD_TIMEOUT = "upload_timeout"
    NOT_FINISHED = "not_finished"
    RESULT_GONE = "result_gone"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    RATE_LIMITED = "rate_limited"
    HEADERS_TOO_LARGE = "headers_too_large"
    INSUFFICIENT_STORAGE = "insufficient_storage"
    TOO_MANY_CONNECTIONS = "too_many_connections"


Code = ErrorCode | HttpCode

STATUSES: dict[Code, HTTPStatus] = {
    HttpCode.INVALID_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.INVALID_JSON: HTTPStatus.BAD_REQUEST,
    ErrorCode.INVALID_JOB: HTTPStatus.BAD_REQUEST,
    ErrorCode.MODEL_NOT_FOUND: HTTPStatus.BAD_REQUEST,
    HttpCode.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.PATH_NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    HttpCode.ORIGIN_NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    HttpCode.HOST_NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    HttpCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.UNKNOWN_METHOD: HTTPStatus.NOT_FOUND,
    HttpCode.METHOD_NOT_ALLOWED: HTTPStatus.METHOD_NOT_ALLOWED,
    HttpCode.NOT_ACCEPTABLE: HTTPStatus.NOT_ACCEPTABLE,
    HttpCode.UPLOAD_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    HttpCode.NOT_FINISHED: HTTPStatus.CONFLICT,
    ErrorCode.DUPLICATE_JOB: HTTPStatus.CONFLICT,
    ErrorCode.CANCELLED: HTTPStatus.CONFLICT,
    HttpCode.RESULT_GONE: HTTPStatus.GONE,
    HttpCode.RANGE_NOT_SATISFIABLE: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    ErrorCode.INPUT_TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ErrorCode.LINE_TOO_LONG: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ErrorCode.UNSUPPORTED_FORMAT: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HttpCode.UNSUPPORTED_MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.INPUT_UNREADABLE: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.INPUT_NOT_FOUND: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.UPSTREAM_FILTERED: HTTPStatus.UNPROCESSABLE_ENTITY,
    HttpCode.IDEMPOTENCY_MISMATCH: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.QUEUE_FULL: HTTPStatus.TOO_MANY_REQUESTS,
    HttpCode.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    HttpCode.HEADERS_TOO_LARGE: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ErrorCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.MODEL_CORRUPT: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.MODEL_UNSAFE: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.POISONED: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.UPSTREAM_AUTH: HTTPStatus.BAD_GATEWAY,
    ErrorCode.UPSTREAM_UNAVAILABLE: HTTPStatus.BAD_GATEWAY,
    ErrorCode.OUT_OF_MEMORY: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.STALLED: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.WORKER_CRASHED: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.STORAGE_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.UPSTREAM_QUOTA: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.SHUTTING_DOWN: HTTPStatus.SERVICE_UNAVAILABLE,
    HttpCode.TOO_MANY_CONNECTIONS: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    ErrorCode.OUTPUT_UNWRITABLE: HTTPStatus.INSUFFICIENT_STORAGE,
    ErrorCode.JOURNAL_UNWRITABLE: HTTPStatus.INSUFFICIENT_STORAGE,
    HttpCode.INSUFFICIENT_STORAGE: HTTPStatus.INSUFFICIENT_STORAGE,
}

# A message may begin with the name of a config's field, such as `target_width 9000: ...`.
_FIELDS = frozenset(name for kind in CONFIGS.values() for name in kind.model_fields if "_" in name)
_FIRST_WORD = re.compile(r"\w+")

# The same request may succeed later. For the protocol's codes see `MEANINGS`.
_RETRYABLE = frozenset(
    {
        HttpCode.UPLOAD_TIMEOUT,
        HttpCode.NOT_FINISHED,
        HttpCode.RATE_LIMITED,
        HttpCode.INSUFFICIENT_STORAGE,
        HttpCode.TOO_MANY_CONNECTIONS,
    }
)


def is_retryable(code: Code) -> bool:
    """True if the same request may succeed later."""
    return MEANINGS[code].retryable if isinstance(code, ErrorCode) else code in _RETRYABLE


def sentence_of(message: str) -> str:
    """A daemon's message, which begins small and has no full stop, as a sentence. A field's name
    stays as it is."""
    begin = message[:1] if _field_of(message) else message[:1].upper()
    return begin + message[1:].rstrip(".") + "."


def field_errors(detail: str) -> list[FieldError]:
    """The error of the field that a sentence begins with, if it does."""
    field = _field_of(detail)
    return [] if field is None else [FieldError(field=field, detail=detail)]


def _field_of(text: str) -> str | None:
    word = _FIRST_WORD.match(text)
    return word[0] if word is not None and word[0] in _FIELDS else None


class ProblemError(Exception):
    """Raised to answer a request with a problem. detail: one sentence that says what is wrong and
    what to do. It shows no path of the server and no key.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        job_id: str | None = None,
        name: str | None = None,
        retryable: bool | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        status = STATUSES[code]
        self.problem = Problem(
            title=status.phrase,
            status=status,
            detail=detail,
            code=code,
            retryable=is_retryable(code) if retryable is None else retryable,
            errors=list(errors),
            job_id=job_id,
            name=name,
        )

    @classmethod
    def field(cls, field: str, detail: str, code: Code = HttpCode.INVALID_REQUEST) -> Self:
        """The problem of one wrong field. detail: names the field."""
        return cls(code, detail, errors=[FieldError(field=field, detail=detail)])

    def named(self, name: str | None) -> Self:
        """The same problem, with the name of a batch's file."""
        self.problem = self.problem.model_copy(update={"name": name})
        return self

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    def response(self) -> Response:
        """The answer."""
        return Response(
            self.problem.model_dump_json(exclude_none=True),
            self.problem.status,
            self.headers,
            media_type=MEDIA_TYPE,
        )
