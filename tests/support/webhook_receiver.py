"""A receiver of webhooks on loopback, which checks each signature."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook

from answering import answering
from waiting import TIMEOUT_S

SECRET = "whsec_" + "c2VjcmV0" * 4


class Receiver(ThreadingHTTPServer):
    """Keeps what it gets, and answers 204, or holds the answer back. ids: of its messages."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.answers = threading.Event()
        self.answers.set()
        self.ids: list[str] = []
        self.status = 204
        self.location: str | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def url(self, path: str = "/hook") -> str:
        return f"http://{self.host}{path}"

    def next(self) -> dict[str, Any]:
        """The next message, whose signature is right."""
        return self.events.get(timeout=TIMEOUT_S)[1]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        event = Webhook(SECRET).verify(body, dict(self.headers))
        self.server.ids.append(self.headers["webhook-id"])
        self.server.events.put((self.path, event))
        self.server.answers.wait(TIMEOUT_S)
        self.send_response(self.server.status)
        if self.server.location is not None:
            self.send_header("location", self.server.location)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    with answering(Receiver(port)) as receiver:
        try:
            yield receiver
        finally:
            receiver.answers.set()
