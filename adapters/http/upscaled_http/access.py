"""The checks before a route runs, and before a byte of the body is read: Host, Origin, key, rate,
draining, queue, disk, Content-Length.

The order matters: a client without a key learns nothing about the queue, and a refused upload costs
no bandwidth.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from upscaled_http.admission import check_room
from upscaled_http.body import LimitedBody
from upscaled_http.config import Settings
from upscaled_http.dependencies import Caller, ServiceState
from upscaled_http.hosts import is_host_allowed, is_origin_allowed
from upscaled_http.keys import KeyRing
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_http.rates import SubmitRate

API_PREFIX = "/api"
ALIAS_PREFIX = "/api/v1"

_READING = frozenset({"GET", "HEAD", "OPTIONS"})

# Routes of the API that need no key. The page and the documents need none either.
OPEN_ROUTES = frozenset({"/health", "/health/live", "/health/ready"})

# A POST to one of these paths, or below it, submits jobs.
_SUBMIT_ROUTES = ("/upscale", "/face-enhance", "/batches", "/images")


class Access:
    """ASGI middleware. Sets `request.state.caller` and limits the body that routes receive."""

    def __init__(self, app: ASGIApp, settings: Settings, service: ServiceState) -> None:
        self._app = app
        self._settings = settings
        self._service = service
        self._keys = KeyRing(settings.auth.keys)
        per_minute = settings.limits.rate_per_minute
        self._rate = SubmitRate(per_minute) if per_minute else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a problem, or run the routes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        body = LimitedBody(receive, request.headers, self._settings.server, self._settings.limits)
        added: dict[str, str] = {}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(added)
                if not body.is_complete:
                    # The rest of the body would be read as the next request.
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._check(request, body, added)
        except ProblemError as error:
            await error.response()(scope, body, send_with_headers)
            return
        await self._app(scope, body, send_with_headers)

    async def _check(self, request: Request, body: LimitedBody, added: dict[str, str]) -> None:
        if not self._keys:
            self._check_host(request.headers)
            self._check_origin(request)
        caller = self._caller(request)
        request.state.caller = caller
        if _is_submit(request):
            await self._check_rate(caller, added)
            check_room(self._service, self._settings.limits.max_queue)
        body.check_declared_length(request.headers)

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) > 1:
            raise ProblemError(HttpCode.INVALID_REQUEST, "The request has two Host headers.")
        # Clients of HTTP/1.0 send no Host; no browser is one of them.
        if hosts and not is_host_allowed(hosts[0], self._settings.server.allowed_hosts):
            raise ProblemError(
                HttpCode.HOST_NOT_ALLOWED,
                "The Host of this request is not allowed; add it to server.allowed_hosts, or set "
                "keys.",
            )

    def _check_origin(self, request: Request) -> None:
        origin = request.headers.get("origin")
        if request.method in _READING or origin is None:
            return
        host = request.headers.get("host", "")
        if not is_origin_allowed(origin, host, self._settings.server.cors_origins):
            raise ProblemError(
                HttpCode.ORIGIN_NOT_ALLOWED,
                "Pages of that Origin may not use this server; add it to server.cors_origins.",
            )

    def _caller(self, request: Request) -> Caller:
        address = request.client.host if request.client else "unknown"
        if not self._keys:
            return Caller(None, address)
        text = _sent_key(request.headers)
        name = self._keys.name_of(text.encode("latin-1")) if text is not None else None
        if name is None and _needs_key(request):
            raise ProblemError(
                HttpCode.UNAUTHORIZED,
                "The key is not one of this server's keys."
                if text is not None
                else "This server needs a key: send `Authorization: Bearer KEY` or `X-API-Key`.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return Caller(name, address)

    async def _check_rate(self, caller: Caller, added: dict[str, str]) -> None:
        if self._rate is None:
            return
        standing = await self._rate.hit(caller)
        added.update(standing.headers(self._rate.per_minute))
        if not standing.is_allowed:
            raise ProblemError(
                HttpCode.RATE_LIMITED,
                f"{self._rate.per_minute} submits per minute are allowed; send this again in "
                f"{standing.reset_s} s.",
                headers={"Retry-After": str(standing.reset_s)},
            )


def api_route(path: str) -> str | None:
    """The path below the API's prefix; None for a path outside the API."""
    for prefix in (ALIAS_PREFIX, API_PREFIX):
        if path.startswith(prefix + "/"):
            return path.removeprefix(prefix)
    return None


def _is_submit(request: Request) -> bool:
    route = api_route(request.scope["path"])
    return (
        request.method == "POST"
        and route is not None
        and any(route == one or route.startswith(one + "/") for one in _SUBMIT_ROUTES)
    )


def _needs_key(request: Request) -> bool:
    route = api_route(request.scope["path"])
    if route is None:
        return bool(request.scope["path"] == "/metrics")
    return route not in OPEN_ROUTES


def _sent_key(headers: Headers) -> str | None:
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return text.strip()
    return headers.get("x-api-key")
