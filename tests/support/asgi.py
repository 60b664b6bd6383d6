"""Requests to an ASGI application, without a server or a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope

PEER = ("127.0.0.1", 50000)


@dataclass
class Answer:
    """What came back, and how many messages of the body the application asked for."""

    status: int
    headers: Headers
    body: bytes
    asked: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        assert self.headers["content-type"] == "application/problem+json", self.headers
        return str(self.json["code"])


def ask(
    app: ASGIApp,
    method: str,
    target: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: Iterable[bytes] = (),
    peer: tuple[str, int] = PEER,
    ends: bool = True,
) -> Answer:
    """Send one request. The body comes in these pieces; without `ends` the rest never comes."""
    return asyncio.run(_ask(app, method, target, headers, list(body), peer, ends))


async def _ask(
    app: ASGIApp,
    method: str,
    target: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    body: list[bytes],
    peer: tuple[str, int],
    ends: bool,
) -> Answer:
    path, _, query = target.partition("?")
    given = headers.items() if isinstance(headers, Mapping) else headers
    pairs = [(name.lower(), value) for name, value in given]
    names = {name for name, _ in pairs}
    if "host" not in names:
        pairs.append(("host", "localhost:8080"))
    if body and "content-length" not in names:
        pairs.append(("transfer-encoding", "chunked"))
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
        "client": peer,
        "server": ("127.0.0.1", 8080),
    }
    sent: list[Message] = []
    asked = 0

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        if asked <= len(body):
            more = asked < len(body) or not ends
            return {"type": "http.request", "body": body[asked - 1], "more_body": more}
        if asked == 1 and ends:
            return {"type": "http.request", "body": b"", "more_body": False}
        return await asyncio.Future[Message]()

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    assert start["type"] == "http.response.start"
    return Answer(
        start["status"],
        Headers(raw=list(start["headers"])),
        b"".join(message.get("body", b"") for message in rest),
        asked,
    )
