"""Routes that are asked most often, without what FastAPI does for each request.

FastAPI resolves parameters and dependencies anew for each request, which takes it about as long as
the rest of a submit. A direct route's endpoint takes the request, the service, the caller and the
path's parameters, all of them texts. The OpenAPI document is made of its signature as of others'.
"""

from __future__ import annotations

from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import Receive, Scope, Send


class DirectRoute(APIRoute):
    """To be given to a router as its `route_class`."""

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
    """A parameter for the OpenAPI document, which the endpoint reads by itself."""
    return {"name": name, "in": "query", "schema": schema, "description": description}


def header_parameter(name: str, description: str) -> dict[str, Any]:
    """The same for a header."""
    schema = {"type": "string"}
    return {"name": name, "in": "header", "schema": schema, "description": description}


WAIT_PARAMETERS = [
    query_parameter("wait", {"type": "number", "minimum": 0}, "Seconds to wait for the job's end."),
    header_parameter("Prefer", "`wait=S`: the same (RFC 7240)."),
]
