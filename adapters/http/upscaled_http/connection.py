"""One client's connection, with limits that uvicorn's own does not have.

uvicorn takes a megabyte of headers, waits without a limit for their end, and closes a connection
while the client still sends. The kernel then answers with a reset, and the client never sees the
reason of the refusal.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, cast

from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from upscaled_http.plainparser import PlainParser
from upscaled_http.problems import HttpCode, ProblemError

# nginx's own limit. A key, cookies of other services on the host and a long path fit.
MAX_HEADER_BYTES = 32 * 1024

# After a refusal the client reads the answer within a round trip; meanwhile it may still send.
LINGER_S = 2.0

_RETRY_AFTER_S = 5


class ConnectionLimits(NamedTuple):
    """The limits of a server's connections."""

    header_timeout_s: float
    max_connections: int


class Connection(HttpToolsProtocol):
    """Parses requests and runs the application for each."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.parser = PlainParser(self)
        self._limits = limits
        # Of the request that is being read.
        self.is_in_request = False
        self._has_all_headers = False
        self._parsed_bytes = 0  # of its headers
        self._unparsed_bytes = 0  # of a header that has not ended
        self._refusal: ProblemError | None = None
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the wait for the first request."""
        super().connection_made(cast(asyncio.Transport, _Lingering(transport, self)))
        if len(self.connections) > self._limits.max_connections:
            self.app = _refuse_connection
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_header_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data. Data after a refusal is dropped."""
        if self.transport.is_closing():
            return
        was_in_request = self.is_in_request
        if not was_in_request and self._header_timer is None:
            # These may be empty lines, with which no request begins.
            self._start_header_timer()
        super().data_received(data)
        if was_in_request and self.is_in_request and not self._has_all_headers:
            self._unparsed_bytes += len(data)
            if self._unparsed_bytes > MAX_HEADER_BYTES:
                self._refuse(_headers_too_large())

    def on_message_begin(self) -> None:
        """A request begins."""
        self.is_in_request = True
        self._has_all_headers = False
        self._parsed_bytes = self._unparsed_bytes = 0
        if self._header_timer is None:
            self._start_header_timer()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Run the application."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ProblemError(HttpCode.INVALID_REQUEST, "This server is no proxy.")
            return  # the parser reads the request once more
        self._has_all_headers = True
        self._stop_header_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request has been read to its end."""
        if self.parser.should_upgrade():
            return
        self.is_in_request = False
        super().on_message_complete()

    def send_400_response(self, _msg: str) -> None:
        """Answer a request that the parser, or one of the methods above, refused."""
        self._refuse(
            self._refusal
            or ProblemError(HttpCode.INVALID_REQUEST, "This is no request of HTTP/1.1.")
        )

    def _count(self, size: int) -> None:
        self._parsed_bytes += size
        if self._parsed_bytes > MAX_HEADER_BYTES:
            self._refusal = _headers_too_large()
            raise self._refusal  # ends the parser, which calls `send_400_response`

    def _refuse(self, error: ProblemError) -> None:
        """Answer without the application, unless an answer is being sent already, or was."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            response = error.response()
            lines = [f"HTTP/1.1 {error.status} {error.problem.title}".encode()]
            lines += [name + b": " + value for name, value in response.raw_headers]
            lines += [b"connection: close", b"", bytes(response.body)]
            self.transport.write(b"\r\n".join(lines))
        self.transport.close()

    def _start_header_timer(self) -> None:
        self._stop_header_timer()
        self._header_timer = self.loop.call_later(
            self._limits.header_timeout_s, self._handle_header_timeout
        )

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _handle_header_timeout(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # The next request has begun behind one that is being answered.
            self._start_header_timer()
        else:
            self.is_in_request = False  # close at once
            self.transport.close()


class _Lingering:
    """A transport whose `close` lets the client read the answer while it still sends."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        self._is_closing = False
        self.write = transport.write

    def close(self) -> None:
        """End our side. Read and drop what the client sends, until it ends its side."""
        if self._is_closing or not self._connection.is_in_request:
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write_eof()
            self._connection.flow.resume_reading()
            self._connection.loop.call_later(LINGER_S, self._transport.close)
        self._is_closing = True

    def is_closing(self) -> bool:
        """True if nothing more may be read or written."""
        return self._is_closing or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _headers_too_large() -> ProblemError:
    return ProblemError(
        HttpCode.HEADERS_TOO_LARGE,
        f"The request's headers are larger than {MAX_HEADER_BYTES // 1024} KiB.",
    )


async def _refuse_connection(scope: Scope, receive: Receive, send: Send) -> None:
    error = ProblemError(
        HttpCode.TOO_MANY_CONNECTIONS,
        "The server has reached its limit of connections; send this again later.",
        headers={"Retry-After": str(_RETRY_AFTER_S), "Connection": "close"},
    )
    await error.response()(scope, receive, send)
