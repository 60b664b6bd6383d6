"""A quicker kind of route, for the most frequent requests.

For each request FastAPI resolves parameters and dependencies, which takes about as long as the rest
of a submit. The endpoint of a direct route takes the request, the service, the caller, and the
path's parameters as texts. Its signature is part of the OpenAPI document, as for other routes.
"""

from __future__ import annotations

from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from upscaled_http.preferences import MAX_KEY_LENGTH


class DirectRoute(APIRoute):
    """Give it to a router as its `route_class`."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that this route matches."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        response = await self.endpoint(
            Request(scope, receive, send),
            scope["app"].state.service,
            scope["state"]["caller"],
            **scope["path_params"],
        )
        await response(scope, receive, send)


def query_parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    """A parameter for the OpenAPI document. The endpoint reads it from the request."""
    return {"name": name, "in": "query", "schema": schema, "description": description}


def header_parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """The same for a header."""
    schema = {"type": "string", **schema}
    return {"name": name, "in": "header", "schema": schema, "description": description}


IDEMPOTENCY_KEY = header_parameter(
    "Idempotency-Key",
    "The same request with the same key is done once.",
    minLength=1,
    maxLength=MAX_KEY_LENGTH,
)

WAIT_PARAMETERS = [
    query_parameter("wait", {"type": "number", "minimum": 0}, "Seconds to wait for the job's end."),
    header_parameter("Prefer", "`wait=S`: the same (RFC 7240)."),
]
