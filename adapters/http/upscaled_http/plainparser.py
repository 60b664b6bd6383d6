"""A parser that ignores `Upgrade`, as RFC 9110 (7.8) lets a server do.

The parser of httptools takes all bytes behind such headers for another protocol, so the request's
body is lost. Java's `HttpClient` asks for HTTP/2 in this way with each request, and so does
`curl --http2`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import httptools

if TYPE_CHECKING:
    from array import array

_OF_UPGRADES = frozenset({b"upgrade", b"http2-settings"})


class Parsed(Protocol):
    """Has the request line and the headers of the request that is being read."""

    url: bytes
    headers: list[tuple[bytes, bytes]]  # names in lower case


class PlainParser(httptools.HttpRequestParser):
    """Reads each request with an `Upgrade` twice: its headers, with `should_upgrade` true, and then
    the same request without `Upgrade`. The protocol must pass over the first one."""

    def __init__(self, protocol: Parsed) -> None:
        self._protocol = protocol
        self._begin()

    def _begin(self) -> None:
        """Forget everything that was read."""
        super().__init__(self._protocol)
        # As uvicorn does: a request behind `Connection: close` is dropped, and is no error.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: bytes | bytearray | memoryview[int] | array[int]) -> None:
        """The next bytes of the connection. Raises `HttpParserError`."""
        rest = memoryview(data)
        while rest:
            try:
                super().feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(self._plain_head() + rest[upgrade.args[0] :])
                # After `Connection: close` it would drop all bytes.
                self._begin()
            else:
                return

    def _plain_head(self) -> bytes:
        """The request line and the headers, without `Upgrade`."""
        version = self.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.get_method(), self._protocol.url, version)]
        for name, value in self._protocol.headers:
            if name == b"connection":
                options = [one.strip() for one in value.split(b",")]
                kept = [one for one in options if one.lower() not in _OF_UPGRADES]
                value = b", ".join(kept)  # noqa: PLW2901
            if name not in _OF_UPGRADES:
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join([*lines, b"", b""])
