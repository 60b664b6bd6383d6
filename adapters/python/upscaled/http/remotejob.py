"""One job on a server:

POST the picture ──> its events, until the last one ──> GET the result
     │ lost: sent again with the same key  │ lost: asked again  │ lost: continued at that byte
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator, Set
from typing import Any

from upscaled.errors import UpscaledError, local_error
from upscaled.http.connection import Connection, Exchange, Stop
from upscaled.http.destination import Destination
from upscaled.http.problems import http_error
from upscaled.http.submission import Submission
from upscaled.messages import Message, names_of
from upscaled.protocol import Progress, ResultMessage

_ENDS = frozenset({"completed", "failed", "cancelled"})
# A job has the fields of the protocol's result and progress under the same names.
_RESULT_FIELDS = names_of(ResultMessage) - {"job_id", "status", "output_path", "output_base64"}
_PROGRESS_FIELDS = names_of(Progress) - {"job_id"}
_PIECE_BYTES = 256 * 1024
_BROKEN = (OSError, http.client.HTTPException)


class RemoteJob:
    """Runs one job on a server. on_accepted, on_progress: called in the thread of `run`."""

    def __init__(
        self,
        connection: Connection,
        job: Message,
        *,
        is_named: bool,
        on_accepted: Callable[[], None],
        on_progress: Callable[[Message], None],
    ) -> None:
        self._connection = connection
        self._job = job
        self._job_id: str = job["job_id"]
        self._is_named = is_named
        self._on_accepted = on_accepted
        self._on_progress = on_progress
        self._stop = Stop()
        self._submission: Submission | None = None
        self._server_id: str | None = None
        self._is_cancelled = False

    def run(self) -> Message:
        """Run it; the protocol's result. Raises `UpscaledError`, and `StoppedError` after
        `stop`."""
        self._stop.check()
        destination = Destination(self._job.get("config") or {}, self._job_id)
        self._submission = Submission(
            self._job, is_named=self._is_named, output_format=destination.output_format
        )
        job = self._end(self._submit(self._submission))
        if job["status"] != "completed":
            raise http_error(_error(job, self._job_id))
        has_result = job.get("result_url") is not None and destination.is_there
        place = destination.write(job, self._download(job)) if has_result else {}
        head = {"type": "result", "job_id": self._job_id, "status": "completed"}
        return {**head, **place, **_chosen(job, _RESULT_FIELDS)}

    def cancel(self) -> bool:
        """Mark the job as cancelled. True: the server has it, or may have, so call `send_cancel`.
        False: the server does not have it, and never will."""
        self._is_cancelled = True
        if self._server_id is not None:
            return True
        # The server may have the whole request. Its answer has the id to cancel.
        if self._submission is not None and self._submission.is_sent:
            return True
        self.stop()
        return False

    def send_cancel(self) -> None:
        """Ask the server to end the job. The job's events then have its end."""
        if self._server_id is not None:
            path = f"/api/jobs/{self._server_id}/cancel"
            # Without an answer, the call's grace ends the call.
            with contextlib.suppress(UpscaledError):
                self._connection.text(Exchange("POST", path, job_id=self._job_id), Stop())

    def stop(self) -> None:
        """End all that runs for the job in this process."""
        self._stop.set()

    def _submit(self, submission: Submission) -> Message:
        def refused() -> None:
            if self._is_cancelled:
                raise local_error("cancelled", "the job was cancelled", self._job_id)

        job = _parsed(self._connection.text(submission.exchange(refused), self._stop))
        self._server_id = job["job_id"]
        self._on_accepted()
        if self._is_cancelled:
            self.send_cancel()
        return job

    def _end(self, job: Message) -> Message:
        """Wait for the job's end; the ended job."""
        if job.get("status") in _ENDS:
            return job
        patience = self._connection.patience()
        exchange = Exchange(
            "GET",
            f"/api/jobs/{self._server_id}/events",
            {"Accept": "text/event-stream"},
            job_id=self._job_id,
        )
        while True:
            failure: Exception | str = "its events end before the job does"
            try:
                with self._connection.sent(exchange, self._stop) as response:
                    for data in _data_of(response):
                        news = _parsed(data)
                        if news.get("status") in _ENDS:
                            return news
                        patience.reset()
                        if news.get("status") == "processing":
                            self._on_progress(_progress(news, self._job_id))
            except _BROKEN as error:
                failure = error
            self._stop.check()
            patience.wait(self._connection.lost(failure), self._stop)

    def _download(self, job: Message) -> Iterator[bytes]:
        """All bytes of the result. If a connection ends early, the next one continues."""
        patience = self._connection.patience()
        total = job.get("file_size_bytes")
        at, etag = 0, ""
        while True:
            headers = {"Range": f"bytes={at}-", "If-Range": etag} if at else {}
            exchange = Exchange(
                "GET", f"/api/results/{self._server_id}", headers, job_id=self._job_id
            )
            failure: Exception | str = "it ended in the middle of a picture"
            with self._connection.sent(exchange, self._stop) as response:
                if at and response.status != 206:
                    sentence = "the server changed the result while it was read"
                    raise local_error("internal", sentence, self._job_id)
                etag = response.getheader("ETag", "")
                while True:
                    try:
                        piece = response.read(_PIECE_BYTES)
                    except http.client.IncompleteRead as error:
                        piece = error.partial
                    except _BROKEN as error:
                        failure, piece = error, b""
                    if not piece:
                        break
                    at += len(piece)
                    patience.reset()
                    yield piece
            self._stop.check()
            if total is None or at >= total:
                return
            patience.wait(self._connection.lost(failure), self._stop)


def _data_of(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The data of each server-sent event (WHATWG HTML, section 9.2)."""
    data: list[bytes] = []
    for line in response:
        text = line.rstrip(b"\r\n")
        if text.startswith(b"data:"):
            data.append(text.removeprefix(b"data:").removeprefix(b" "))
        elif not text and data:
            yield b"\n".join(data)
            data = []


def _parsed(data: bytes) -> Message:
    """The job in an answer. Raises `UpscaledError` if there is none."""
    with contextlib.suppress(ValueError):
        parsed = json.loads(data)
        if isinstance(parsed, dict) and isinstance(parsed.get("job_id"), str):
            return parsed
    raise local_error("internal", "the server answered with no job")


def _progress(job: Message, job_id: str) -> Message:
    return {"type": "progress", "job_id": job_id, **_chosen(job, _PROGRESS_FIELDS)}


def _error(job: Message, job_id: str) -> dict[str, Any]:
    """The protocol's message for a job that did not complete."""
    status = job.get("status")
    return {
        "type": "error",
        "job_id": job_id,
        "error": job.get("error") or f"the job {status}",
        "code": job.get("code") or status,
        **_chosen(job, {"retryable", "attempt"}),
    }


def _chosen(job: Message, names: Set[str]) -> Message:
    return {name: value for name, value in job.items() if name in names and value is not None}
