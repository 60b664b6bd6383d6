"""One HTTP request to an address that was checked, ended by a deadline or a cancel."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import BinaryIO
from urllib.parse import SplitResult, quote

from upscaled_imaging.context import PictureContext
from upscaled_protocol.errors import JobError
from upscaled_protocol.urlpolicy import UrlPolicy

# The longest wait for a connection, or for the next byte.
_SILENCE_S = 10.0
# How often the deadline and a cancel are checked.
_LOOK_S = 0.1
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "upscaled"}


@contextmanager
def open_response(
    method: str,
    parts: SplitResult,
    urls: UrlPolicy,
    context: PictureContext,
    deadline: float,
    *,
    body: BinaryIO | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """Send one request, and read the head of its answer.

    Raises `HostNotFoundError`, `HostNotAllowedError`, `OSError` and `http.client.HTTPException`,
    and `JobError` (cancelled). At the deadline or a cancel the connection is shut down, which looks
    like the end of the answer.
    """
    host = str(parts.hostname)
    usual_port = {"http": 80, "https": 443}[parts.scheme]
    port = parts.port or usual_port
    connection = http.client.HTTPConnection(host, port)
    # Any other port is part of the Host header, which a signed URL may cover.
    connection.default_port = usual_port
    stream = _connect(urls.addresses(host, port), port, context, deadline)
    with stream, _watched(stream, context, deadline):
        connection.sock = stream
        if parts.scheme == "https":
            tls = ssl.create_default_context()
            connection.sock = tls.wrap_socket(stream, server_hostname=host)
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        if parts.query:
            target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?")
        try:
            connection.request(method, target, body, {**_HEADERS, **(headers or {})})
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()


def _connect(
    addresses: list[str], port: int, context: PictureContext, deadline: float
) -> socket.socket:
    failure = OSError("the name has no address")
    for address in addresses:
        stream = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        stream.settimeout(min(_SILENCE_S, max(0.001, deadline - time.monotonic())))
        try:
            with _watched(stream, context, deadline):
                stream.connect((address, port))
        except OSError as error:
            stream.close()
            context.check_cancelled()
            failure = error
        else:
            return stream
    raise failure


@contextmanager
def _watched(stream: socket.socket, context: PictureContext, deadline: float) -> Iterator[None]:
    """Shut the stream down at the deadline, or when the job is cancelled.

    The stream's own timeout is not enough: a server that sends a byte now and then resets it.
    """
    over = Event()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            if time.monotonic() >= deadline or _is_cancelled(context):
                with suppress(OSError):  # not connected yet, or no longer
                    copy.shutdown(socket.SHUT_RDWR)
                return

    # TLS may have taken over the stream itself, and its state belongs to the reading thread.
    with stream.dup() as copy:
        watcher = Thread(target=watch, name="fetch watcher", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def _is_cancelled(context: PictureContext) -> bool:
    try:
        context.check_cancelled()
    except JobError:
        return True
    return False
