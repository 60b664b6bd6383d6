"""A server that gives each picture back as it came, for clients: no daemon, no engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from answering import answering

_ROUTES = {
    "status_url": "",
    "events_url": "",
    "cancel_url": "",
    "created_at": "2026-01-02T00:00:00Z",
}


class EchoServe(ThreadingHTTPServer):
    """`url`; `connections`: how many came; `fields`: of each job, in their order. A job with a
    `prompt` ends only if it is cancelled, and sets `held` when it runs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.connections = 0
        self.fields: list[dict[str, str]] = []
        self.pictures: dict[str, bytes] = {}
        self.cancelled: dict[str, threading.Event] = {}
        self.held = threading.Event()

    def get_request(self) -> tuple[Any, Any]:
        """Count the connection, and accept it."""
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may leave at any time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EchoServe

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        """Say nothing."""

    def do_POST(self) -> None:
        """A submit, or a cancel."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path.endswith("/cancel"):
            job_id = self.path.split("/")[3]
            self.server.cancelled[job_id].set()
            self._answer(202, self._job(job_id, status="processing"))
            return
        kind = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        fields, job_id = {}, f"J{len(self.server.fields)}"
        for part in message_from_bytes(kind + body, policy=HTTP).iter_parts():
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            if part.get_filename() is None:
                fields[str(part.get_param("name", header="content-disposition"))] = content.decode()
            else:
                self.server.pictures[job_id] = content
        self.server.cancelled[job_id] = threading.Event()
        self.server.fields.append(fields)
        self._answer(202, self._job(job_id, status="queued"))

    def do_GET(self) -> None:
        """Health, a job's events, or its result."""
        if self.path == "/api/health":
            health = {"status": "ok", "version": "9.9.9", "uptime_s": 1.0, "methods": ["esrgan"]}
            self._answer(200, {**health, "queue_size": 2, "in_flight": 0})
        elif self.path.startswith("/api/jobs?"):
            known = self.headers.get("authorization") != "Bearer wrong"
            problem = {"code": "unauthorized", "detail": "This key is not known here."}
            self._answer(200 if known else 401, {} if known else problem)
        elif self.path.endswith("/events"):
            self._stream(self.path.split("/")[3])
        else:
            self._answer(200, self.server.pictures[self.path.split("/")[3]])

    def _stream(self, job_id: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self._tell(self._job(job_id, status="processing", progress=50, stage="upscale"))
        if "prompt" in self.server.fields[int(job_id[1:])]:
            self.server.held.set()
            self.server.cancelled[job_id].wait(60)
            end = {"status": "cancelled", "error": "the job was cancelled", "code": "cancelled"}
            self._tell(self._job(job_id, **end))
            return
        size = {"width": 7, "height": 5}
        self._tell(
            self._job(
                job_id,
                status="completed",
                progress=100,
                result_url=f"/api/results/{job_id}",
                media_type="image/png",
                scale_factor=2.0,
                input_size=size,
                output_size=size,
                file_size_bytes=len(self.server.pictures[job_id]),
                processing_time=0.5,
            )
        )

    def _job(self, job_id: str, **fields: Any) -> dict[str, Any]:
        return {**_ROUTES, "job_id": job_id, "method": "esrgan", **fields}

    def _tell(self, job: dict[str, Any]) -> None:
        self.wfile.write(f"event: progress\ndata: {json.dumps(job)}\n\n".encode())
        self.wfile.flush()

    def _answer(self, status: int, body: dict[str, Any] | bytes) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def echo_serve() -> Iterator[EchoServe]:
    """Start one on a free port."""
    with answering(EchoServe()) as server:
        yield server
