"""Servers that answer in a thread of the test's process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseServer
from typing import TypeVar

ServerT = TypeVar("ServerT", bound=BaseServer)

# How often it looks whether it is to end.
_LOOK_S = 0.01


@contextmanager
def answering(server: ServerT) -> Iterator[ServerT]:
    """The server, which answers until the context is left."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(_LOOK_S,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
