"""The server: its sockets, its signals, and a shutdown that loses no answer.

uvicorn closes its port first, cuts streams off before their last event, and exits by the signal
that stopped it. This server drains first and still answers meanwhile, so that clients get the last
event, or find the end of their job. Then it closes the port, and exits with status 0.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from upscaled_http.config import ServerSettings
from upscaled_http.connection import Connection, ConnectionLimits
from upscaled_http.logs import flush_log
from upscaled_http.notify import Notifier

log = logging.getLogger(__name__)

BACKLOG = 2048

# A proxy keeps its connections for about a minute (nginx: 60 s). If the server closed one first,
# the proxy's next request could be lost.
KEEP_ALIVE_S = 75

# After the drain, for answers to slow clients.
LAST_ANSWERS_S = 3

# `timeout`, npm and others send a signal to the process and to its process group: two signals
# within this time are one request.
SAME_SIGNAL_S = 0.5

EXIT_FORCED = 1

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Server(uvicorn.Server):
    """Runs the application and its lifespan until a signal."""

    def __init__(
        self,
        app: FastAPI,
        settings: ServerSettings,
        notifier: Notifier,
        on_open: Callable[[], None],
    ) -> None:
        limits = ConnectionLimits(settings.header_timeout_s, settings.max_connections)
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=functools.partial(Connection, limits=limits),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",  # ours below lets the service's own errors through
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=LAST_ANSWERS_S,
            )
        )
        self._application = app
        self._settings = settings
        self._notifier = notifier
        self._on_open = on_open
        self._stop_asked_at: float | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal. Raises what the service raises at its start."""
        with self.capture_signals():
            async with self._application.router.lifespan_context(self._application):
                await self._serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, and report it."""
        await super().startup(sockets)
        self._on_open()
        self._notifier.ready("Serving")

    async def on_tick(self, counter: int) -> bool:
        """Called every 0.1 s, in the event loop."""
        self._notifier.feed_watchdog(asyncio.get_running_loop().time())
        service, idle_exit_s = self._application.state.service, self._settings.idle_exit_s
        if service.fault is not None:
            self.should_exit = True
        elif idle_exit_s is not None and service.idle_s >= idle_exit_s and not self.should_exit:
            log.info("stopping", extra={"fields": {"idle_s": idle_exit_s}})
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then close."""
        self._notifier.stopping()
        ticking = asyncio.create_task(self._feed_watchdog())
        try:
            await self._application.state.service.drain()
            await super().shutdown(sockets)
        finally:
            ticking.cancel()

    async def _feed_watchdog(self) -> None:
        while True:
            self._notifier.feed_watchdog(asyncio.get_running_loop().time())
            await asyncio.sleep(0.1)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first SIGTERM or SIGINT drains, the second one exits at once. SIGHUP replaces the
        workers. If a terminal started the server, SIGHUP means that the terminal was closed."""
        loop = asyncio.get_running_loop()
        for one in _SIGNALS:
            loop.add_signal_handler(one, self.handle_exit, one, None)
        try:
            yield
        finally:
            for one in _SIGNALS:
                loop.remove_signal_handler(one)

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if sig == signal.SIGHUP and not os.isatty(0):
            log.info("replacing the workers", extra={"fields": {"signal": "SIGHUP"}})
            self._application.state.service.reload()
            return
        now = time.monotonic()
        if self._stop_asked_at is not None:
            if now - self._stop_asked_at < SAME_SIGNAL_S:
                return
            # No job is lost: both stores survive a kill -9, and the daemon ends with its pipes.
            log.warning("a second signal: stopping at once")
            flush_log()
            os._exit(EXIT_FORCED)
        self._stop_asked_at = now
        log.info("stopping", extra={"fields": {"signal": signal.Signals(sig).name}})
        self.should_exit = True


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of the host. Raises `OSError`.

    They are opened before the service starts, so that no daemon is started if the port is taken.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, (address, _, *scope) in found:
            opened = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(opened)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # localhost has two addresses: for port 0, both get the port that the first one got.
            chosen = sockets[0].getsockname()[1] if len(sockets) > 1 else port
            opened.bind((address, chosen, *scope))
            opened.listen(BACKLOG)
            opened.setblocking(False)
    except OSError:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def url_of(opened: socket.socket) -> str:
    """The address of the page, for a person on this machine."""
    host, port = opened.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
