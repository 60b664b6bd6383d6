"""One POST to the URL of a webhook's receiver.

The connection is made to an address that was checked, as for `image_url`. Redirects are not
followed, no proxy of the environment is used, and the body of the answer is not read.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future

import httpcore2

from upscaled_protocol.urlpolicy import (
    HostNotAllowedError,
    HostNotFoundError,
    UrlPolicy,
)
from upscaled_webhooks.webhookurl import host_of

# From the connection to the answer's status. A receiver should answer before it does its work.
TIME_LIMIT_S = 15.0
# Per address of a host that has several.
_CONNECT_LIMIT_S = 5.0


class DeliveryError(Exception):
    """Raised if there was no answer. Its text has the reason, and of the URL only the host."""


class Poster:
    """Sends to hosts that `destinations` allows."""

    def __init__(self, destinations: UrlPolicy) -> None:
        self._destinations = destinations
        # Read once, because reading the system's certificates takes time.
        self._tls = ssl.create_default_context()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """Send, and return the status of the answer. Raises `DeliveryError`."""
        try:
            # Outside the time limit, because a look-up cannot be cancelled. It counts as a running
            # delivery until the resolver gives up.
            addresses = await _in_thread(self._destinations.addresses, *host_of(url))
            async with asyncio.timeout(TIME_LIMIT_S):
                return await self._post(url, headers, body, addresses)
        except TimeoutError:
            raise DeliveryError(f"took longer than {TIME_LIMIT_S:g} s") from None
        except (HostNotAllowedError, HostNotFoundError, ssl.SSLError) as error:
            raise DeliveryError(str(error)) from None
        except httpcore2.ConnectError as error:
            raise DeliveryError(f"no connection: {error}") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException):
            raise DeliveryError("no HTTP answer") from None

    async def _post(
        self, url: str, headers: Mapping[str, str], body: bytes, addresses: list[str]
    ) -> int:
        async with (
            httpcore2.AsyncConnectionPool(
                ssl_context=self._tls, network_backend=_PinnedBackend(addresses)
            ) as pool,
            pool.stream(
                "POST",
                url,
                headers=list(headers.items()),
                content=body,
                extensions={"timeout": {"connect": _CONNECT_LIMIT_S}},
            ) as response,
        ):
            return int(response.status)


class _PinnedBackend(httpcore2.AnyIOBackend):
    """Connects to the first of these addresses that answers, and ignores the host's name."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - the library's interface
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for address in self._addresses:
            try:
                return await super().connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


async def _in_thread(look_up: Callable[[str, int], list[str]], host: str, port: int) -> list[str]:
    """Look up in a daemon thread. The process would wait for a thread of an executor."""
    outcome: Future[list[str]] = Future()
    outcome.set_running_or_notify_cancel()

    def run() -> None:
        try:
            outcome.set_result(look_up(host, port))
        except Exception as error:  # noqa: BLE001 - raised again by the `await`
            outcome.set_exception(error)

    threading.Thread(target=run, name="webhook look-up", daemon=True).start()
    return await asyncio.wrap_future(outcome)
