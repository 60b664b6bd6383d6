"""The application: routes, and the checks that each request passes before them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from upscaled_http.config import Settings
from upscaled_http.dependencies import ServiceState
from upscaled_http.messages import FieldError, Problem
from upscaled_http.problems import MEDIA_TYPE, HttpCode, ProblemError
from upscaled_http.routes import ROUTERS
from upscaled_protocol.version import VERSION


def create_app(settings: Settings, service: ServiceState) -> FastAPI:
    """The ASGI application. It starts and stops the service with its own lifespan."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="upscaled",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={"default": {"model": Problem, "content": {MEDIA_TYPE: {}}}},
    )
    app.state.settings = settings
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router, prefix="/api")
        app.include_router(router, prefix="/api/v1", include_in_schema=False)
    app.add_exception_handler(ProblemError, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    return app


async def _answer_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return error.response()


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    """A parameter of the wrong type: FastAPI's own answer would be 422 in another form."""
    assert isinstance(error, RequestValidationError)
    errors = [
        FieldError(field=str(fault["loc"][-1]), detail=str(fault["msg"]))
        for fault in error.errors()
    ]
    detail = "; ".join(f"{fault.field}: {fault.detail}" for fault in errors)
    return ProblemError(HttpCode.INVALID_REQUEST, detail, errors=errors).response()


async def _answer_http(_request: Request, error: Exception) -> Response:
    """What the router itself refuses."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return ProblemError(
            HttpCode.METHOD_NOT_ALLOWED,
            f"This address does not take that method; it takes {allowed}.",
            headers=error.headers,
        ).response()
    return ProblemError(
        HttpCode.NOT_FOUND, "There is nothing at this address; /docs lists the routes."
    ).response()
