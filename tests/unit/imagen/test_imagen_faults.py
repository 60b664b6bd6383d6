"""What the SDK raises, in the protocol's codes, and how long to wait before another try."""

from __future__ import annotations

import asyncio
import selectors
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from upscaled_models.imagen.ratelimit import RateLimit
from upscaled_models.registry import is_installed

pytestmark = pytest.mark.skipif(
    not is_installed("imagen"), reason="needs pip install 'upscaled[imagen]'"
)

SECRET = "ya29.canary-that-must-not-sing"


class Response:
    def __init__(self, **headers: str) -> None:
        self.headers = headers


def fault(status: int, message: str = "", **headers: str) -> Any:
    from google.genai.errors import APIError

    from upscaled_models.imagen.faults import fault_of

    body = {"error": {"message": message, "status": "X"}}
    response: Any = Response(**headers)
    return fault_of(APIError(status, body, response), SECRET)


@pytest.mark.parametrize(
    ("status", "message", "code", "retryable"),
    [
        (400, "bad picture", "invalid_job", False),
        (400, "It violates Responsible AI practices. Support codes: 1", "upstream_filtered", False),
        (401, "", "upstream_auth", False),
        (403, "", "upstream_auth", False),
        (404, "", "model_not_found", False),
        (408, "", "upstream_unavailable", True),
        (413, "", "input_too_large", False),
        (418, "", "upstream_unavailable", False),
        (429, "", "upstream_quota", True),
        (499, "", "upstream_unavailable", True),
        (500, "", "upstream_unavailable", True),
        (503, "", "upstream_unavailable", True),
        (504, "", "upstream_unavailable", True),
    ],
)
def test_each_status_has_its_code(status: int, message: str, code: str, retryable: bool) -> None:
    found = fault(status, message)
    assert (found.error.code, found.retryable) == (code, retryable)
    assert message in found.error.message


def test_retry_after_is_read_in_seconds_and_as_a_date() -> None:
    assert fault(429, **{"retry-after": "7"}).retry_after_s == 7
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 30 < fault(503, **{"retry-after": soon}).retry_after_s <= 60
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=60), usegmt=True)
    assert fault(503, **{"retry-after": past}).retry_after_s == 0
    for nonsense in ("soon", "-5", "1.5", "nan", "Wed, 21 Oct 2035 07:28:00 +99999999999999"):
        assert fault(503, **{"retry-after": nonsense}).retry_after_s == 0
    assert fault(503).retry_after_s == 0


@pytest.mark.parametrize("status", [400, 401, 429, 503])
def test_the_services_message_is_sent_to_the_host_without_the_token(status: int) -> None:
    text = fault(status, f"who is Bearer other-token, and who {SECRET}?\n").error.message
    assert SECRET not in text
    assert "other-token" not in text
    assert "who is" in text


def test_a_librarys_message_is_never_sent_to_the_host() -> None:
    from google.auth import exceptions

    from upscaled_models.imagen.faults import fault_of

    outcomes: list[tuple[Any, str, bool]] = [
        (exceptions.RefreshError, "upstream_auth", False),
        (exceptions.TransportError, "upstream_unavailable", True),
        (ConnectionError, "upstream_unavailable", True),
        (TimeoutError, "upstream_unavailable", True),
        (ValueError, "upstream_unavailable", False),
        (RecursionError, "upstream_unavailable", False),
        (RuntimeError, "upstream_unavailable", True),
    ]
    for kind, code, retryable in outcomes:
        found = fault_of(kind(SECRET), None)
        assert (found.error.code, found.retryable) == (code, retryable)
        assert SECRET not in found.error.message


def test_a_certificate_that_is_not_trusted_has_another_error_than_an_answer() -> None:
    from aiohttp import ClientConnectorCertificateError
    from aiohttp.client_reqrep import ConnectionKey

    from upscaled_models.imagen.faults import fault_of

    key = ConnectionKey("host", 443, True, True, None, None, None)
    found = fault_of(ClientConnectorCertificateError(key, ValueError(SECRET)), None)
    assert found.error.message == "the cloud service's certificate is not trusted here"
    assert (found.error.code, found.retryable) == ("upstream_unavailable", False)


class Skipping(selectors.SelectSelector):
    """Advances an event loop's clock instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


def test_no_window_holds_more_calls_than_the_rate_limit_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    selector = Skipping()
    loop = asyncio.SelectorEventLoop(selector)
    monkeypatch.setattr(loop, "time", lambda: selector.now)
    times: list[float] = []

    async def start(limit: RateLimit) -> None:
        await limit.turn()
        times.append(loop.time())

    async def start_all() -> None:
        limit = RateLimit(3)
        await asyncio.gather(*(start(limit) for _ in range(8)))

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(start_all())
    assert times == [0, 0, 0, 60, 60, 60, 120, 120]
