"""A real HTTP server on loopback that cuts, lies and refuses, and models that lie on it."""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from answering import answering
from upscaled_cli.models import main
from upscaled_models.catalog import Catalog, Model

DATA = random.Random(7).randbytes(300_000)
TIMEOUT_S = 60


@dataclass
class Served:
    """A file on the server, and its moods: each request takes the first of its lists."""

    data: bytes = DATA
    etag: str | None = '"one"'
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # bytes to send before the connection drops
    ranges: bool = True
    wrong_range: bool = False  # answers a Range with the last ten bytes
    range_header: str | None = None  # its Content-Range
    gate: threading.Event | None = None  # half of the body waits for it
    half_sent: threading.Event = field(default_factory=threading.Event)


class Server(ThreadingHTTPServer):
    """Serves `files` and remembers the headers of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def serve(self, name: str, **moods: Any) -> Served:
        self.files[name] = Served(**moods)
        return self.files[name]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A puller that goes away is part of the tests."""

    def ranges_asked(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.close_connection = True
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.path, headers))
        served = self.server.files.get(self.path.lstrip("/"))
        if served is None or served.statuses:
            self.send_error(served.statuses.pop(0) if served else 404)
            return
        start = self.start_of_range(served, headers)
        if start and served.wrong_range:
            start = len(served.data) - 10
        body = served.data[start:]
        if start and not body:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if served.etag:
            self.send_header("ETag", served.etag)
        if start:
            last, size = len(served.data) - 1, len(served.data)
            told = served.range_header or f"bytes {start}-{last}/{size}"
            self.send_header("Content-Range", told)
        self.end_headers()
        if served.cuts:
            body = body[: served.cuts.pop(0)]
        half = len(body) // 2
        self.wfile.write(body[:half])
        served.half_sent.set()
        if served.gate is not None:
            served.gate.wait(TIMEOUT_S)
        self.wfile.write(body[half:])

    def start_of_range(self, served: Served, headers: dict[str, str]) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        unchanged = headers.get("if-range") in (None, served.etag)
        return int(asked[1]) if asked and served.ranges and unchanged else 0

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep the test output clean."""


@contextmanager
def running_server() -> Iterator[Server]:
    """A server that runs until the context is left."""
    with answering(Server()) as server:
        yield server


def model(*sources: str, **changes: Any) -> Model:
    fields: dict[str, Any] = {
        "name": "mine",
        "method": "esrgan",
        "architecture": "ESRGAN",
        "licence": "CC-BY-NC-SA-4.0",
        "commercial_use": False,
        "description": "For tests.",
        "folder": "upscale_models",
        "file": "mine.pth",
        "scale": 4,
        "size_bytes": len(DATA),
        "sha256": hashlib.sha256(DATA).hexdigest(),
        "sources": sources,
    }
    return Model(**(fields | changes))


def pull(folder: Path, *models: Model) -> int:
    arguments = ["pull", models[0].name, "--model-dir", str(folder)]
    return main(arguments, Catalog(models), pauses_s=(0, 0, 0))


def target_in(folder: Path) -> Path:
    return folder / "upscale_models" / "mine.pth"


def part_in(folder: Path) -> Path:
    return folder / "upscale_models" / "mine.pth.part"


def leave_part(folder: Path, data: bytes) -> None:
    part_in(folder).parent.mkdir(parents=True)
    part_in(folder).write_bytes(data)
