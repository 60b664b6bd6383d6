"""A picture from a URL, without giving a job access to this machine's private network.

`Access.urls` decides which hosts are allowed. The connection goes to the address that was checked,
and each redirect is checked in the same way. Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import BinaryIO
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from upscaled_imaging.context import PictureContext
from upscaled_imaging.settings import PictureSettings
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.urlpolicy import (
    HostNotAllowedError,
    HostNotFoundError,
    UrlPolicy,
)

# From the first name look-up to the last byte, with redirects: half a gigabyte at 70 Mbit/s.
TIME_LIMIT_S = 60.0
# The longest wait for a connection, or for the next byte.
_SILENCE_S = 10.0
# How often the deadline and a cancel are checked.
_LOOK_S = 0.1
_MAX_REDIRECTS = 5
# RFC 1035, 2.3.4. International names are never shorter in their encoded form.
_LONGEST_HOST = 253
# The most characters of a server's own text in an error.
_LONGEST_REASON = 100
_CHUNK_BYTES = 256 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)


def fetch(url: str, file: BinaryIO, settings: PictureSettings, context: PictureContext) -> None:
    """Write what ``url`` gives to ``file``.

    Raises `JobError`: path_not_allowed for another scheme, or a host that `Access.urls` does not
    allow; input_too_large above `Limits.max_input_bytes`; input_not_found; input_unreadable if not
    all of it arrives in time.
    """
    deadline = time.monotonic() + TIME_LIMIT_S
    # Twice the limit, because a name look-up cannot be interrupted.
    context.progress(0, "fetch", budget_s=2 * TIME_LIMIT_S)
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            parts = _parts(url)
            with _response(parts, settings, context, deadline) as response:
                if response.status not in _REDIRECTS:
                    _receive(response, file, settings.limits.max_input_bytes)
                    # A stream that the watcher shut looks like one that has ended.
                    context.check_cancelled()
                    if time.monotonic() < deadline:
                        return
                    raise TimeoutError
                url = _redirected(url, response.headers.get("Location", ""))
    except (OSError, http.client.HTTPException) as error:
        context.check_cancelled()
        if time.monotonic() >= deadline:
            raise _unreadable(f"image_url took longer than {TIME_LIMIT_S:g} s") from None
        raise _unreadable(f"image_url cannot be fetched: {error}") from None
    raise _unreadable(f"image_url redirects more than {_MAX_REDIRECTS} times")


def too_large(limit_bytes: int) -> JobError:
    """The error of an input with too many bytes."""
    return JobError(
        ErrorCode.INPUT_TOO_LARGE, f"the input passes the limit of {limit_bytes / 2**20:g} MiB"
    )


def _redirected(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise _unreadable("image_url redirects to something that is no valid URL") from None


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = 0 < len(parts.hostname or "") <= _LONGEST_HOST and parts.port != 0
    except ValueError:
        raise _unreadable("image_url is no valid URL") from None
    if parts.scheme not in ("http", "https"):
        raise JobError(ErrorCode.PATH_NOT_ALLOWED, "image_url must begin with http:// or https://")
    if not valid:
        raise _unreadable("image_url is no valid URL")
    return parts


def _addresses(host: str, port: int, urls: UrlPolicy) -> list[str]:
    try:
        return urls.addresses(host, port)
    except HostNotFoundError as error:
        raise JobError(ErrorCode.INPUT_NOT_FOUND, str(error)) from None
    except HostNotAllowedError as error:
        raise JobError(ErrorCode.PATH_NOT_ALLOWED, f"image_url: {error}") from None


@contextmanager
def _response(
    parts: SplitResult, settings: PictureSettings, context: PictureContext, deadline: float
) -> Iterator[http.client.HTTPResponse]:
    host = str(parts.hostname)
    usual_port = {"http": 80, "https": 443}[parts.scheme]
    port = parts.port or usual_port
    connection = http.client.HTTPConnection(host, port)
    # Any other port is part of the Host header, which a signed URL may cover.
    connection.default_port = usual_port
    stream = _connect(_addresses(host, port, settings.access.urls), port, context, deadline)
    with stream, _watched(stream, context, deadline):
        connection.sock = stream
        if parts.scheme == "https":
            tls = ssl.create_default_context()
            connection.sock = tls.wrap_socket(stream, server_hostname=host)
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        if parts.query:
            target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?")
        try:
            connection.request(
                "GET", target, headers={"Accept-Encoding": "identity", "User-Agent": "upscaled"}
            )
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


def _receive(response: http.client.HTTPResponse, file: BinaryIO, limit_bytes: int) -> None:
    if response.status in _GONE:
        raise JobError(ErrorCode.INPUT_NOT_FOUND, f"image_url answers {response.status}")
    if response.status != http.client.OK:
        reason = "".join(filter(str.isprintable, response.reason[:_LONGEST_REASON]))
        raise _unreadable(f"image_url answers {response.status} {reason}")
    announced = response.length
    if announced is not None and announced > limit_bytes:
        raise too_large(limit_bytes)
    received = 0
    while chunk := response.read(_CHUNK_BYTES):
        received += len(chunk)
        if received > limit_bytes:
            raise too_large(limit_bytes)
        _keep(chunk, file)
    if announced is not None and received < announced:
        raise _unreadable(f"image_url ended after {received} of {announced} bytes")


def _keep(data: bytes, file: BinaryIO) -> None:
    try:
        file.write(data)
        file.flush()
    except OSError as error:  # not a network error
        raise JobError(
            ErrorCode.OUTPUT_UNWRITABLE, f"the data of image_url cannot be stored: {error.strerror}"
        ) from None


def _unreadable(message: str) -> JobError:
    return JobError(ErrorCode.INPUT_UNREADABLE, message)
