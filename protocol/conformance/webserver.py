"""A scripted server: it answers each request as a case's rows say, once per row."""

from __future__ import annotations

import json
import socket
import threading
import time
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Row = dict[str, Any]

# The defaults of a row's `job`.
_JOB = {
    "job_id": "J1",
    "method": "esrgan",
    "status": "queued",
    "created_at": "2026-01-02T03:04:05Z",
    "status_url": "/api/jobs/J1",
    "events_url": "/api/jobs/J1/events",
    "cancel_url": "/api/jobs/J1/cancel",
}
_PIECES_BYTES = 64 * 1024


class ScriptedServer(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1. `fault` is the first request that differs from the case,
    as a sentence."""

    daemon_threads = True

    def __init__(self, rows: list[Row], timeout_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault = ""
        self.timeout_s = timeout_s
        self._rows = [*rows]
        self._changed = threading.Condition()
        self._taken: list[str] = []
        self._keys: set[str] = set()
        self._answered_s = 0.0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def left(self) -> list[str]:
        """The requests of the case that did not come."""
        return [row["on"] for row in self._rows if not row.get("optional")]

    def take(self, name: str) -> Row | None:
        """The next row for this request; None if there is none."""
        with self._changed:
            row = next((one for one in self._rows if one["on"] == name), None)
            if row is None:
                self.record_fault(f"{name} was not expected; expected {self.left[:3]}")
            else:
                self._rows.remove(row)
            self._taken.append(name)
            self._changed.notify_all()
            return row

    def wait_for(self, name: str) -> None:
        """Wait until this request has come."""
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._taken, self.timeout_s):
                self.record_fault(f"{name} did not come")

    def wait_for_requests(self, count: int) -> None:
        """Wait until that many have come."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._taken) >= count, self.timeout_s):
                self.record_fault(f"{len(self._taken)} requests came, not {count}")

    def check_key(self, key: str, *, is_again: bool) -> None:
        """A retry has its first try's Idempotency-Key, and another job has another."""
        if (key in self._keys) != is_again:
            self.record_fault(
                f"the Idempotency-Key {key!r} is {'new' if is_again else 'an old one'}"
            )
        self._keys.add(key)

    def check_pause(self, least_s: float) -> None:
        """So long after the last answer at least."""
        waited_s = time.monotonic() - self._answered_s
        if waited_s < least_s:
            self.record_fault(
                f"the request came {waited_s:.2f} s after the answer, before {least_s} s"
            )

    def answered(self) -> None:
        """An answer was written."""
        self._answered_s = time.monotonic()

    def record_fault(self, fault: str) -> None:
        """Note what the client did wrong."""
        self.fault = self.fault or fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may leave at any time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer by the next row."""
        self._handle()

    def do_POST(self) -> None:
        """The same."""
        self._handle()

    def _handle(self) -> None:
        row = self.server.take(f"{self.command} {self.path}")
        if row is None:
            self._respond(500, b"not expected")
            return
        if row.get("drop") == "unread":
            self._hang_up()
            return
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self._check(row, body)
        if row.get("drop") == "unanswered":
            self._hang_up()
        elif "events" in row:
            self._stream(row)
        elif "bytes" in row:
            self._result(row)
        elif "job" in row:
            content = json.dumps(_JOB | row["job"]).encode()
            self._respond(row.get("status", 200), content, row.get("headers", {}), row.get("cut"))
            if "cut" in row:
                self._hang_up()
        else:
            content = json.dumps(row["json"]).encode() if "json" in row else row["text"].encode()
            self._respond(row["status"], content, row.get("headers", {}))
        self.server.answered()

    def _check(self, row: Row, body: bytes) -> None:
        self.server.check_pause(row.get("pause_s", 0))
        for name, wanted in row.get("sent", {}).items():
            if self.headers.get(name) != wanted:
                self.server.record_fault(f"{row['on']}: {name} is {self.headers.get(name)!r}")
        if "fields" in row or "picture" in row:
            self.server.check_key(
                self.headers.get("Idempotency-Key", ""), is_again=row.get("again", False)
            )
            fields, picture = self._form(body)
            for what, got in (("fields", fields), ("picture", picture)):
                if what in row and got != row[what]:
                    self.server.record_fault(
                        f"{row['on']}: the {what} are {got!r}, not {row[what]!r}"
                    )

    def _form(self, body: bytes) -> tuple[Row, str | None]:
        """The fields as text, and the picture's bytes as text."""
        kind = self.headers.get("Content-Type", "")
        if kind == "application/json":
            return json.loads(body), None
        message = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=HTTP)
        fields, picture = {}, None
        for part in message.iter_parts():
            name = part.get_param("name", header="content-disposition")
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            if part.get_filename() is None:
                fields[str(name)] = content.decode()
            else:
                picture = content.decode()
        return fields, picture

    def _stream(self, row: Row) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for at, event in enumerate(row["events"]):
            if at == row.get("hold_at"):
                self.wfile.flush()
                self.server.wait_for(row["until"])
            if isinstance(event, str):
                self.wfile.write(event.encode())
                continue
            job = _JOB | event
            self.wfile.write(f"event: progress\ndata: {json.dumps(job)}\n\n".encode())
        if "until" in row and row.get("hold_at") is None:
            self.server.wait_for(row["until"])

    def _result(self, row: Row) -> None:
        content = row["bytes"].encode() * row.get("times", 1)
        first = row.get("first", 0)
        self.send_response(206 if first else 200)
        self.send_header("Content-Type", row.get("type", "image/png"))
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[first : row.get("cut", len(content))])
        if "cut" in row:
            self._hang_up()

    def _respond(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:cut])

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
