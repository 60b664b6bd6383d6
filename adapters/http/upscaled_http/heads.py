"""HEAD for every route that has GET. Probes such as `wget --spider` send it, and FastAPI's routes
refuse it."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Heads:
    """ASGI middleware: runs the GET, and cancels it once its headers are sent. So a HEAD does not
    count as a download.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application. For a HEAD, send only the headers."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        is_answered = asyncio.Event()

        async def send_headers(message: Message) -> None:
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            is_answered.set()
            await asyncio.Future()

        as_get = {**scope, "method": "GET"}
        route = asyncio.ensure_future(self._app(as_get, receive, send_headers))
        answered = asyncio.ensure_future(is_answered.wait())
        try:
            # If the route fails, it ends without an answer.
            await asyncio.wait((route, answered), return_when=asyncio.FIRST_COMPLETED)
        finally:
            answered.cancel()
            route.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await route
        scope.update({key: as_get[key] for key in ("route", "path_params") if key in as_get})
