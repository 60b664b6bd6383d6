"""A stand-in for Vertex AI on this machine: it checks requests strictly, and fails on request.

    python -m upscaled_models.imagen.loopback --answers quota,right --delay-s 2

A job can choose its answer by a `gcp_region` with the answer's name.

It enlarges with the resampler's Lanczos kernel, so results can be compared.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import re
import select
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from upscaled_imaging.metadata import Metadata
from upscaled_imaging.png import write_png
from upscaled_imaging.resample import resample
from upscaled_imaging.rows import Picture
from upscaled_models.imagen.wire import Question, Refusal
from upscaled_protocol.optionvalues import at_least_zero, whole_number

PROJECT = "loopback-project"
TOKEN = "loopback-token"  # noqa: S105 - it opens nothing
MODEL = "imagen-4.0-upscale-preview"
ANSWERS = {
    "right": "the picture, enlarged",
    "late": "nothing, until the client has gone",
    "quota": "429, with Retry-After if it is set",
    "unavailable": "503, with Retry-After if it is set",
    "proxy": "503 from something in between, whose body is no JSON",
    "denied": "403",
    "filtered": "no picture, and the filter's reason",
    "empty": "no picture, and no reason",
    "garbage": "a picture that is none",
    "no-json": "a page of HTML",
    "redirect": "307, to another page of this server",
    "endless": "more bytes than any picture has, until the client has gone",
    "half": "half of the right answer, then the end of the connection",
    "closed": "the end of the connection",
}
_PATH = re.compile(
    r"/v1/projects/(?P<project>[^/]+)/locations/(?P<region>[a-z0-9-]+)"
    r"/publishers/google/models/(?P<model>[^/:]+):predict"
)
_PAGE_BYTES = 1024 * 1024
_SUBJECTS = {
    "urn:ietf:params:oauth:grant-type:jwt-bearer": "assertion",
    "urn:ietf:params:oauth:grant-type:token-exchange": "subject_token",
}
_REFUSALS = {
    "quota": (429, "RESOURCE_EXHAUSTED", "come back later"),
    "unavailable": (503, "UNAVAILABLE", "come back later"),
    "denied": (403, "PERMISSION_DENIED", "the caller lacks a permission"),
}
_BODIES = {
    "proxy": (503, b"<html>No upstream"),
    "empty": (200, b"{}"),
    "no-json": (200, b"<html>Sign in to the hotel's network</html>"),
}


class Loopback(ThreadingHTTPServer):
    """Serves on 127.0.0.1, at `port` or any free port. Its counts can be read at any time.

    answers: names from `ANSWERS`, one per request; the last one repeats.
    questions: the requests that were in order. refusals: what was wrong with the others.
    abandoned: requests whose client left before the answer. most_at_once: requests side by side.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        *,
        port: int = 0,
        token: str = TOKEN,
        answers: Sequence[str] = ("right",),
        delay_s: float = 0.0,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.token = token
        self.delay_s = delay_s
        self.retry_after = retry_after
        self.questions: list[Question] = []
        self.refusals: list[str] = []
        self.abandoned = 0
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self.answers = answers

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def answers(self) -> Iterator[str]:
        """The next answers. Assign names to replace them."""
        return self._answers

    @answers.setter
    def answers(self, names: Sequence[str]) -> None:
        self._answers = itertools.chain(names, itertools.repeat(names[-1]))

    def environment(self) -> dict[str, str]:
        """What a daemon needs in its environment to talk to this server."""
        return {
            "GOOGLE_VERTEX_BASE_URL": self.url,
            "GCP_PROJECT_ID": PROJECT,
            "GOOGLE_OAUTH_ACCESS_TOKEN": self.token,
        }

    def next_answer(self) -> str:
        """The name of the next answer."""
        with self._lock:
            return next(self._answers)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the requests that are answered at once."""
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Loopback
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's own name
        """Log nothing, because any line may hold the client's token."""

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self._fail(Refusal(411, "INVALID_ARGUMENT", "a Content-Length is needed"))
            self.close_connection = True
            return
        body = self.rfile.read(int(length))
        if self.path == "/token":
            self._exchange(body)
            return
        with self.server.counting():
            try:
                region = self._checked_region()
                question = Question(body)
            except Refusal as refusal:
                self.server.refusals.append(f"{self.path}: {refusal.message}")
                self._fail(refusal)
                return
            self.server.questions.append(question)
            chosen = region if region in ANSWERS else self.server.next_answer()
            self._answer(chosen, question)

    def _checked_region(self) -> str:
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            raise Refusal(401, "UNAUTHENTICATED", "the request has no valid authentication")
        path = _PATH.fullmatch(self.path)
        if path is None:
            raise Refusal(404, "NOT_FOUND", "there is no such page")
        if path["project"] != PROJECT:
            raise Refusal(403, "PERMISSION_DENIED", f"project {path['project']} is not yours")
        if path["model"] != MODEL:
            raise Refusal(404, "NOT_FOUND", f"there is no model {path['model']}")
        if self.headers.get_content_type() != "application/json":
            raise Refusal(400, "INVALID_ARGUMENT", "the body is no JSON")
        return path["region"]

    def _answer(self, name: str, question: Question) -> None:
        if self._client_leaves_within(None if name == "late" else self.server.delay_s):
            self.server.abandoned += 1
            self.close_connection = True
            return
        match name:
            case "right":
                self._predict({"mimeType": "image/png", "bytesBase64Encoded": _enlarged(question)})
            case "filtered":
                self._predict({"raiFilteredReason": "The picture was filtered. Support code: 42."})
            case "garbage":
                picture = base64.b64encode(b"this is no picture").decode()
                self._predict({"mimeType": "image/png", "bytesBase64Encoded": picture})
            case "redirect":
                self._send(307, b"", location="/elsewhere")
            case "endless":
                self._send(200, b'{"predictions":[', missing=10**12)
                while True:
                    self.wfile.write(bytes(_PAGE_BYTES))
            case "half":
                self._send(200, b'{"predictions":[{"mimeType":"image/p', missing=100)
            case "closed":
                self.close_connection = True
            case _ if name in _REFUSALS:
                self._fail(Refusal(*_REFUSALS[name]))
            case _:
                self._send(*_BODIES[name])

    def _client_leaves_within(self, seconds: float | None) -> bool:
        """Wait up to `seconds`, or without a limit, until the client closes the connection."""
        return bool(select.select([self.connection], [], [], seconds)[0])

    def _exchange(self, body: bytes) -> None:
        """A service account's signed claim for a token (RFC 7523), or a workload's (RFC 8693)."""
        form = parse_qs(body.decode("ascii"))
        [grant_type] = form.get("grant_type", [""])
        [claim] = form.get(_SUBJECTS.get(grant_type, ""), [""])
        if claim.count(".") != 2 or "Authorization" in self.headers:
            self._send(400, b'{"error":"invalid_grant"}')
            return
        token = {"access_token": self.server.token, "expires_in": 3600, "token_type": "Bearer"}
        self._send(200, json.dumps(token).encode())

    def _predict(self, prediction: dict[str, str]) -> None:
        self._send(200, json.dumps({"predictions": [prediction]}).encode())

    def _fail(self, refusal: Refusal) -> None:
        error = {"code": refusal.status, "message": refusal.message, "status": refusal.name}
        self._send(refusal.status, json.dumps({"error": error}).encode())

    def _send(
        self, status: int, body: bytes, *, missing: int = 0, location: str | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) + missing))
        if status in (429, 503) and self.server.retry_after is not None:
            self.send_header("Retry-After", self.server.retry_after)
        if location is not None:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = bool(missing) or self.close_connection


def enlarged(rgb: np.ndarray, factor: int) -> np.ndarray:
    """The server's result for (h, W, 3) pixels."""
    height, width, _ = rgb.shape
    size = (width * factor, height * factor)
    return np.concatenate(list(resample([rgb], source=(width, height), target=size, bits=8)))


def _enlarged(question: Question) -> str:
    return _file(question.rgb.tobytes(), question.rgb.shape, question.factor)


# A load test sends the same picture many times, and should not measure this server.
@lru_cache(maxsize=16)
def _file(pixels: bytes, shape: tuple[int, ...], factor: int) -> str:
    rgb = enlarged(np.frombuffer(pixels, np.uint8).reshape(shape), factor)
    file = BytesIO()
    write_png(iter([rgb]), file, Picture(rgb.shape[1], rgb.shape[0], 3, 8), Metadata())
    return base64.b64encode(file.getvalue()).decode()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted. The first line prints the environment that a daemon needs."""
    answers_text = "\n".join(f"  {name:12} {meaning}" for name, meaning in ANSWERS.items())
    options = argparse.ArgumentParser(
        prog="python -m upscaled_models.imagen.loopback",
        description=(__doc__ or "").splitlines()[0],
        epilog=f"answers:\n{answers_text}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("--port", type=whole_number, default=0, help="default: any free port")
    add("--token", default=TOKEN, help="the token that is accepted (default: %(default)s)")
    add(
        "--answers",
        type=_names,
        default=["right"],
        help="separated by commas; the last one repeats",
    )
    add("--delay-s", type=at_least_zero, default=0.0, help="delay of each answer")
    add("--retry-after", metavar="SECONDS", help="sent with quota and unavailable")
    chosen = options.parse_args(argv)
    with Loopback(
        port=chosen.port,
        token=chosen.token,
        answers=chosen.answers,
        delay_s=chosen.delay_s,
        retry_after=chosen.retry_after,
    ) as server:
        words = " ".join(f"{name}={value}" for name, value in server.environment().items())
        sys.stdout.write(f"export {words}\n")
        sys.stdout.flush()
        server.serve_forever()


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in ANSWERS:
            raise argparse.ArgumentTypeError(f"no answer {name!r}; known: {', '.join(ANSWERS)}")
    return names


if __name__ == "__main__":
    main()
