"""The answers to exceptions of routes, and to requests that no route takes."""

from __future__ import annotations

import logging
import sqlite3
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from upscaled_http.access import api_route
from upscaled_http.messages import FieldError
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_http.routes import ROUTERS

_LOG = logging.getLogger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Every error becomes a problem."""
    app.add_exception_handler(ProblemError, _answer_problem)
    app.add_exception_handler(sqlite3.Error, _answer_storage)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)


async def _answer_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return error.response()


async def _answer_storage(_request: Request, error: Exception) -> Response:
    """The registry cannot be read or written."""
    _LOG.error("the registry failed: %s", error)
    return ProblemError(
        HttpCode.INSUFFICIENT_STORAGE, "The server's disk is full or fails; try again later."
    ).response()


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    """A parameter has the wrong type. FastAPI's own answer would be no problem document."""
    assert isinstance(error, RequestValidationError)
    errors = [
        FieldError(
            field=".".join(str(part) for part in fault["loc"][1:]) or "body",
            detail=str(fault["msg"]),
        )
        for fault in error.errors()
    ]
    detail = "; ".join(f"`{fault.field}`: {fault.detail}" for fault in errors)
    return ProblemError(HttpCode.INVALID_REQUEST, detail, errors=errors).response()


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # FastAPI wraps an exception that is raised while it reads the body.
    if isinstance(error.__cause__, ProblemError):
        return error.__cause__.response()
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(allowed_methods(request))
        return ProblemError(
            HttpCode.METHOD_NOT_ALLOWED,
            f"This address does not take {request.method}; it takes {allowed}.",
            headers={"Allow": allowed},
        ).response()
    if error.status_code == HTTPStatus.NOT_FOUND:
        return ProblemError(
            HttpCode.NOT_FOUND, "There is nothing at this address; /docs lists the routes."
        ).response()
    return ProblemError(HttpCode.INVALID_REQUEST, "The request's body cannot be read.").response()


def allowed_methods(request: Request) -> list[str]:
    """The methods of all routes at this path. The router reports only those of the first route."""
    below = api_route(request.scope["path"])
    routes = (
        [route for router in ROUTERS for route in router.routes]
        if below is not None
        else request.app.router.routes
    )
    path = below if below is not None else request.scope["path"]
    methods: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.path_regex.match(path):
            methods |= route.methods or set()
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)
