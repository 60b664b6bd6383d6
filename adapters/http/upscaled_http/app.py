"""The application: its routes, and the layers that each request passes first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from upscaled_http.access import ALIAS_PREFIX, API_PREFIX, OPEN_ROUTES, Access, api_route
from upscaled_http.config import Settings
from upscaled_http.dependencies import ServiceState
from upscaled_http.docspage import add_docs
from upscaled_http.errors import add_error_handlers
from upscaled_http.headers import SafeHeaders
from upscaled_http.heads import Heads
from upscaled_http.messages import Problem
from upscaled_http.metrics import RequestMetrics
from upscaled_http.page import add_page
from upscaled_http.problems import MEDIA_TYPE
from upscaled_http.requestlog import RequestLog
from upscaled_http.routes import ROUTERS, webhooks
from upscaled_protocol.version import VERSION

_SCHEMAS = "#/components/schemas/"

_DESCRIPTION = """\
Pictures in, larger pictures out: submit a job, follow it, fetch its result. Errors are problems
(RFC 9457), whose `code` is stable. `/api/v1` is another name of `/api`.
"""

# Only for the document: the access checks read the key. FastAPI's own classes for keys would take
# time in each request.
_KEYS = {
    "key": {"type": "http", "scheme": "bearer"},
    "key_header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

# Headers that scripts of another origin may send and read, beside those that CORS always allows.
_CORS_REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Range",
    "Last-Event-ID",
    "Prefer",
    "Range",
    "X-API-Key",
    "X-Request-ID",
)
_CORS_RESPONSE_HEADERS = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Idempotency-Replayed",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Request-ID",
)


def create_app(settings: Settings, service: ServiceState) -> FastAPI:
    """The ASGI application. It starts and stops the service with its own lifespan."""
    metrics = RequestMetrics(service.collect)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            async with metrics.watching_lag():
                yield
        finally:
            await service.stop()

    options: dict[str, Any] = {
        "title": "upscaled",
        "version": VERSION,
        "description": _DESCRIPTION,
        "lifespan": lifespan,
        # After a redirect the client would send its upload a second time.
        "redirect_slashes": False,
        "responses": {
            "default": {
                "description": "A problem.",
                "content": {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}},
            }
        },
    }
    openapi_url = "/openapi.json" if settings.features.docs else None
    app = FastAPI(openapi_url=openapi_url, docs_url=None, redoc_url=None, **options)
    if settings.features.docs:
        add_docs(app)
    app.state.settings = settings
    app.state.service = service
    # One router: each included router costs every request another search.
    api = APIRouter()
    api.routes.extend(route for router in ROUTERS for route in router.routes)
    app.include_router(api, prefix=API_PREFIX)
    app.include_router(api, prefix=ALIAS_PREFIX, include_in_schema=False)
    if settings.features.metrics:
        _add_metrics(app, service, metrics)
    if settings.features.page:
        add_page(app)
    add_error_handlers(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    _add_middleware(app, settings, service, metrics)
    return app


def _add_middleware(
    app: FastAPI, settings: Settings, service: ServiceState, metrics: RequestMetrics
) -> None:
    """Add the layers, the innermost first."""
    app.add_middleware(Access, settings=settings, service=service)
    app.add_middleware(Heads)
    if settings.server.cors_origins:
        # Outside the access checks, so that a page can read the reason of a refusal.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.server.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=_CORS_REQUEST_HEADERS,
            expose_headers=_CORS_RESPONSE_HEADERS,
        )
    app.add_middleware(SafeHeaders)
    app.add_middleware(RequestLog, metrics=metrics)
    if settings.server.trusted_proxies:
        app.add_middleware(
            ProxyHeadersMiddleware,
            trusted_hosts=list(settings.server.trusted_proxies),
        )


def _add_metrics(app: FastAPI, service: ServiceState, metrics: RequestMetrics) -> None:
    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        await service.measure()
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The document, with the keys and with the schemas of the problems."""
    if not app.openapi_schema:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            servers=[{"url": "./"}],  # beside this document, also behind a proxy
            routes=app.routes,
            webhooks=webhooks.router.routes,
        )
        problem = Problem.model_json_schema(ref_template=_SCHEMAS + "{model}")
        components = document.setdefault("components", {})
        components["securitySchemes"] = _KEYS
        keys: list[dict[str, Any]] = [{name: []} for name in _KEYS]
        for path, operations in document["paths"].items():
            for operation in operations.values():
                # {}: the key may be left out.
                operation["security"] = [{}, *keys] if api_route(path) in OPEN_ROUTES else keys
        schemas = components.setdefault("schemas", {})
        for name, schema in problem.pop("$defs", {}).items():
            schemas.setdefault(name, schema)
        schemas.setdefault("Problem", problem)
        app.openapi_schema = document
    return app.openapi_schema
