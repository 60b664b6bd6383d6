"""Requests to one server. A request is sent again while that may help:

answered 2xx ──────────────────────────────────────> the response
429 ───────────────────────── wait Retry-After ────> again, as often as it takes
lost, 408, 502, 503, 504 ──── wait, longer each time > again, `attempts` times in a row
certificate not trusted ───────────────────────────> DaemonGoneError
anything else ─────────────────────────────────────> UpscaledError, by the problem's code
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from upscaled.errors import DaemonGoneError, UpscaledError
from upscaled.http.problems import MAY_PASS, TOO_MANY, problem_error
from upscaled_protocol.backoff import backoff_s

# The server answers, or writes a line, at least every 15 s.
_SILENCE_S = 60.0
_CONNECT_S = 10.0
_LONGEST_DELAY_S = 10.0
# A refusal without a Retry-After.
_DEFAULT_WAIT_S = 1.0


class StoppedError(Exception):
    """Raised when `Stop.set` ended an exchange."""


class Stop:
    """Ends the waits and requests of one job, from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._open: socket.socket | None = None

    def set(self) -> None:
        """End every wait and every open request with `StoppedError`."""
        self._event.set()
        with self._lock:
            if self._open is not None:
                with contextlib.suppress(OSError):
                    self._open.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """Raise `StoppedError` if it was set."""
        if self._event.is_set():
            raise StoppedError

    def wait(self, delay_s: float) -> None:
        """Wait for this time. Raises `StoppedError` as soon as it is set."""
        self._event.wait(delay_s)
        self.check()

    def hold(self, open_socket: socket.socket | None) -> None:
        """End this socket too when it is set; None: no socket is open."""
        with self._lock:
            self._open = open_socket
        if open_socket is not None:
            self.check()


@dataclass(frozen=True)
class Exchange:
    """One request. body: called for each try. on_refused: called at each refusal; an exception of
    it ends the exchange. also_ok: a status beside 2xx whose answer is returned too."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[], Iterable[bytes]] | None = None
    job_id: str | None = None
    on_refused: Callable[[], None] | None = None
    also_ok: int | None = None


class Patience:
    """Counts the failures in a row of something that is tried again."""

    def __init__(self, attempts: int, delay_s: float) -> None:
        self._attempts = attempts
        self._delay_s = delay_s
        self._failures = 0

    def reset(self) -> None:
        """Start the count again, after a success."""
        self._failures = 0

    def wait(self, error: UpscaledError, stop: Stop, at_least_s: float = 0.0) -> None:
        """Wait before the next try, at least this time. Raises the error after too many
        failures."""
        if self._failures >= self._attempts:
            raise error
        self._failures += 1
        delay_s = backoff_s(self._failures, self._delay_s, _LONGEST_DELAY_S)
        # Clients that lost the same server must not come back at the same moment.
        stop.wait(max(at_least_s, delay_s * (0.75 + random.random() / 2)))  # noqa: S311


class Connection:
    """Raises `TypeError` if the URL is not one of http or https."""

    def __init__(self, url: str, key: str | None, attempts: int, delay_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise TypeError(
                f"url is {url!r}: give http://HOST:PORT or https://HOST, and the key as key="
            )
        self._url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._is_safe = parts.scheme == "https"
        self._address = parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._policy = attempts, delay_s

    def patience(self) -> Patience:
        """A count of failures."""
        return Patience(*self._policy)

    @contextmanager
    def sent(self, exchange: Exchange, stop: Stop) -> Iterator[http.client.HTTPResponse]:
        """The response, once its status is 2xx. Raises `UpscaledError` and `StoppedError`; reading
        the response raises `OSError` and `http.client.HTTPException`."""
        connection, response = self._answer(exchange, stop)
        try:
            yield response
        finally:
            stop.hold(None)
            response.close()
            connection.close()

    def text(self, exchange: Exchange, stop: Stop) -> bytes:
        """The body of the response. Raises `UpscaledError` and `StoppedError`."""
        patience = self.patience()
        while True:
            try:
                with self.sent(exchange, stop) as response:
                    return response.read()
            except (OSError, http.client.HTTPException) as failure:
                stop.check()
                patience.wait(self.lost(failure), stop)

    def lost(self, failure: Exception | str) -> DaemonGoneError:
        """The error of a request whose server does not answer."""
        why = str(failure) or type(failure).__name__
        error = DaemonGoneError(f"the server {self._url} cannot be reached: {why}")
        error.__cause__ = failure if isinstance(failure, Exception) else None
        return error

    def _answer(
        self, exchange: Exchange, stop: Stop
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        patience = self.patience()
        while True:
            stop.check()
            connection = self._new_connection()
            status, wait_s = None, None
            try:
                connection.connect()
                stop.hold(connection.sock)
                connection.sock.settimeout(_SILENCE_S)
                response = self._response(connection, exchange)
                if 200 <= response.status < 300 or response.status == exchange.also_ok:
                    return connection, response
                status = response.status
                error, wait_s = _refusal(response, exchange.job_id)
            except ssl.SSLCertVerificationError as failure:  # the next try would see the same
                connection.close()
                raise self.lost(failure) from failure
            except (OSError, http.client.HTTPException) as failure:
                error = self.lost(failure)
            except BaseException:  # the body's own
                stop.hold(None)
                connection.close()
                raise
            stop.hold(None)
            connection.close()
            stop.check()
            if status is not None and exchange.on_refused is not None:
                exchange.on_refused()
            if status == TOO_MANY and error.retryable:
                stop.wait(_DEFAULT_WAIT_S if wait_s is None else wait_s)
            elif status is None or (status in MAY_PASS and error.retryable):
                patience.wait(error, stop, wait_s or 0.0)
            else:
                raise error

    def _new_connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_safe else http.client.HTTPConnection
        return kind(*self._address, timeout=_CONNECT_S)

    def _response(
        self, connection: http.client.HTTPConnection, exchange: Exchange
    ) -> http.client.HTTPResponse:
        try:
            connection.request(
                exchange.method,
                self._prefix + exchange.path,
                body=None if exchange.body is None else exchange.body(),
                headers={**exchange.headers, **self._headers},
            )
        except (BrokenPipeError, ConnectionResetError) as error:
            # A server that refuses does not read to the end. Its answer may have come already.
            try:
                return connection.getresponse()
            except (OSError, http.client.HTTPException):
                raise error from None
        return connection.getresponse()


def _refusal(
    response: http.client.HTTPResponse, job_id: str | None
) -> tuple[UpscaledError, float | None]:
    """The error, and the seconds until the next try; None if the answer names no time."""
    error = problem_error(response.status, response.read(), job_id)
    text = response.getheader("Retry-After", "")
    if text.isdecimal():
        return error, float(text)
    with contextlib.suppress(ValueError):  # RFC 9110, section 10.2.3: or a date
        return error, max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return error, None
