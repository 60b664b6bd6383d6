"""A web server of pictures, many of which are wrong, slow or endless."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from answering import answering
from upscaled_imaging.context import PictureContext
from upscaled_imaging.fetch import fetch
from upscaled_imaging.settings import PictureSettings
from upscaled_protocol.errors import JobError

PIXELS = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """One request; `seen` has the path and the host of each."""

    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        type(self).seen.append((self.path, self.headers["Host"]))
        name, _, argument = self.path.lstrip("/").partition("?")
        getattr(self, f"send_{name.partition('.')[0]}")(argument)

    def send_picture(self, _: str) -> None:
        data = png()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_chunked(self, _: str) -> None:
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        for part in (png()[:99], png()[99:]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def send_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        pace = threading.Event()
        while not pace.wait(0.001):  # slower than a cancel
            self.wfile.write(bytes(65536))

    def send_huge(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(10**12))
        self.end_headers()

    def send_wordy(self, _: str) -> None:
        self.send_response(500, "sorry \x1b[31m" + "again " * 5000)
        self.end_headers()

    def send_short(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(png()[:100])

    def send_slow(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x")
        self.wfile.flush()
        self.rfile.read(1)  # until the client goes away

    def send_trickle(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        pace = threading.Event()
        while not pace.wait(0.02):
            self.wfile.write(b"x")

    def send_silent(self, _: str) -> None:
        self.rfile.read(1)

    def send_headers(self, _: str) -> None:
        self.send_response(200)
        self.flush_headers()
        pace = threading.Event()
        while not pace.wait(0.02):
            self.wfile.write(b"x")

    def send_status(self, status: str) -> None:
        self.send_error(int(status))

    def send_redirect(self, location: str) -> None:
        self.send_response(302)
        self.send_header("Location", location)
        self.end_headers()

    def send_again(self, _: str) -> None:
        self.send_redirect("/again")

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client has closed the connection


@contextmanager
def running_picture_server() -> Iterator[ThreadingHTTPServer]:
    Handler.seen = []
    with answering(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as running:
        yield running


def fetch_error(url: str, settings: PictureSettings, context: PictureContext) -> JobError:
    with pytest.raises(JobError) as caught:
        fetch(url, io.BytesIO(), settings, context)
    assert "\n" not in caught.value.message
    return caught.value
