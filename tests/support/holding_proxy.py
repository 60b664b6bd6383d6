"""A proxy in front of a server that holds uploads in their middle."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from waiting import wait_until

_CHUNK_BYTES = 64 * 1024


class HoldingProxy:
    """Passes bytes on, but of each request whose first line has `marker` only the first
    `passed_bytes` until `release`. `cut` ends the held connections as a lost network does."""

    def __init__(self, server_port: int, marker: bytes, passed_bytes: int) -> None:
        self._server_port, self._marker, self._passed_bytes = server_port, marker, passed_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._changed = threading.Condition()
        self._held: list[tuple[socket.socket, socket.socket]] = []
        self._is_released = False
        threading.Thread(target=self._accept, daemon=True).start()

    def wait_held(self) -> None:
        """Wait until an upload is held."""
        wait_until(lambda: self._held, "an upload")

    def cut(self) -> None:
        """Close the connections that are held now."""
        with self._changed:
            for pair in self._held:
                for one in pair:
                    _shut(one)
            self._held.clear()
            self._changed.notify_all()

    def release(self) -> None:
        """Hold nothing from now on."""
        with self._changed:
            self._is_released = True
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more connections."""
        self.release()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                for target, pair in ((self._up, (client, server)), (_pass, (server, client))):
                    threading.Thread(target=target, args=pair, daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        passed = -1  # bytes of a marked request; -1: of another one
        with suppress(OSError):
            while data := client.recv(_CHUNK_BYTES):
                line = data.partition(b"\r\n")[0]
                if line.endswith(b"HTTP/1.1"):
                    passed = 0 if self._marker in line else -1
                if passed >= 0:
                    passed += len(data)
                    if passed > self._passed_bytes and not self._hold(client, server):
                        break
                server.sendall(data)
        _shut(client)
        _shut(server)

    def _hold(self, client: socket.socket, server: socket.socket) -> bool:
        """Wait for `release`, which is True, or for `cut`."""
        pair = (client, server)
        with self._changed:
            if not self._is_released:
                self._held.append(pair)
            self._changed.wait_for(lambda: self._is_released or pair not in self._held)
            if pair in self._held:
                self._held.remove(pair)
            return self._is_released


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            sink.sendall(data)
    _shut(source)
    _shut(sink)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def holding_proxy(server_port: int, marker: bytes, passed_bytes: int) -> Iterator[HoldingProxy]:
    """A proxy that is closed afterwards."""
    proxy = HoldingProxy(server_port, marker, passed_bytes)
    try:
        yield proxy
    finally:
        proxy.close()
