"""One log line, one count and one id per request; and the answer if a route raises an unexpected
exception."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from upscaled_http.access import API_PREFIX, api_route
from upscaled_http.dependencies import Caller
from upscaled_http.metrics import RequestMetrics
from upscaled_http.problems import ProblemError
from upscaled_protocol.errors import ErrorCode

log = logging.getLogger("upscaled_http.access")

# Ids that are safe in a log line and in a header.
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

# The client left before the answer began. HTTP has no status for it; proxies log this one.
CLIENT_GONE = 499

# A healthy server answers with these when it cannot take a request now.
_DELIBERATE = frozenset({503, 507})

# Probes ask these every few seconds, so they are logged at the level `debug`.
_PROBES = frozenset({"/api/health/live", "/api/health/ready", "/metrics"})


class RequestLog:
    """ASGI middleware, the outermost of ours."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, and log the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        seen = _Counts()

        async def counted_receive() -> Message:
            message = await receive()
            seen.bytes_in += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
                seen.status = message["status"]
            else:
                seen.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        except Exception:
            log.exception("a request failed", extra={"fields": {"request_id": request_id}})
            if seen.status != CLIENT_GONE:
                raise  # the answer has begun: a broken connection marks it as incomplete
            error = ProblemError(
                ErrorCode.INTERNAL,
                f"The server failed at this request; its log says more under {request_id}.",
            )
            await error.response()(scope, receive, counted_send)
        finally:
            self._write(scope, seen, time.perf_counter() - started)

    def _write(self, scope: Scope, seen: _Counts, seconds: float) -> None:
        route = route_template(scope)
        self._metrics.observe(route, scope["method"], seen.status, seconds, seen.bytes_in)
        level = logging.DEBUG if route in _PROBES and seen.status < 400 else logging.INFO
        if seen.status >= 500:
            level = logging.WARNING if seen.status in _DELIBERATE else logging.ERROR
        if not log.isEnabledFor(level):
            return
        state = scope["state"]
        caller: Caller | None = state.get("caller")
        job_id = state.get("job_id") or scope.get("path_params", {}).get("job_id")
        fields: dict[str, Any] = {
            "request_id": state["request_id"],
            "client": scope["client"][0] if scope.get("client") else None,
            "key": caller.key_name if caller else None,
            "method": scope["method"],
            "route": route,
            "status": seen.status,
            "job_id": job_id,
            "bytes_in": seen.bytes_in,
            "bytes_out": seen.bytes_out,
            "ms": round(seconds * 1000, 1),
        }
        log.log(level, "request", extra={"fields": fields})


class _Counts:
    """The counts of one request."""

    status = CLIENT_GONE
    bytes_in = 0
    bytes_out = 0


def route_template(scope: Scope) -> str:
    """The route's path as declared, without ids; `none` if no route has the path."""
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        return "none"
    return f"{API_PREFIX}{path}" if api_route(scope["path"]) is not None else str(path)


def _request_id(headers: Headers) -> str:
    sent = headers.get("x-request-id", "")
    return sent if _PLAIN_ID.fullmatch(sent) else uuid.uuid4().hex
