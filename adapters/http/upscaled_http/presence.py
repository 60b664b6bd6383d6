"""The presence of a client while its request is being answered."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


async def wait_left(receive: Receive) -> None:
    """Return once the client has closed its connection. receive: of a request whose body was
    read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, waiting: Coroutine[Any, Any, T]) -> T | None:
    """The result of `waiting`. If the client leaves before, `waiting` is cancelled, and the result
    is None: without it each client that leaves would take memory to the end of its wait."""
    waits = asyncio.ensure_future(waiting)
    left = asyncio.ensure_future(wait_left(receive))
    try:
        await asyncio.wait((waits, left), return_when=asyncio.FIRST_COMPLETED)
        if not waits.done():
            left.result()  # raises what the read of a body raised
            return None
        return waits.result()
    finally:
        for one in (waits, left):
            one.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await one
