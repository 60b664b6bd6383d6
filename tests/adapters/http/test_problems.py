"""Every code has one status, and the answer says the same in its body."""

import json

import pytest

from upscaled_http.problems import (
    STATUSES,
    HttpCode,
    ProblemError,
    field_errors,
    sentence_of,
)
from upscaled_protocol.errors import ErrorCode


@pytest.mark.parametrize("code", [*ErrorCode, *HttpCode])
def test_every_code_has_an_error_status(code: ErrorCode | HttpCode) -> None:
    assert 400 <= STATUSES[code] < 600


def test_a_problem_carries_its_code_its_fields_and_its_headers() -> None:
    error = ProblemError.field("scale", "`scale` is 0; give a number above 0.")
    error.headers["X-Kept"] = "yes"
    response = error.response()
    body = json.loads(bytes(response.body))
    assert response.media_type == "application/problem+json"
    assert response.headers["x-kept"] == "yes"
    assert body == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "`scale` is 0; give a number above 0.",
        "code": "invalid_request",
        "retryable": False,
        "errors": [{"field": "scale", "detail": "`scale` is 0; give a number above 0."}],
    }


def test_a_code_of_the_protocol_keeps_its_own_retryable() -> None:
    assert ProblemError(ErrorCode.QUEUE_FULL, "full").problem.retryable
    assert not ProblemError(ErrorCode.INPUT_UNREADABLE, "torn").problem.retryable


@pytest.mark.parametrize(
    ("message", "sentence", "field"),
    [
        ("the disk is full", "The disk is full.", None),
        ("target_width 9: too large.", "target_width 9: too large.", "target_width"),
        ("my_model.pth is not usable", "My_model.pth is not usable.", None),
    ],
)
def test_only_a_field_of_a_config_is_named_as_one(
    message: str, sentence: str, field: str | None
) -> None:
    assert sentence_of(message) == sentence
    assert [one.field for one in field_errors(sentence)] == ([] if field is None else [field])
