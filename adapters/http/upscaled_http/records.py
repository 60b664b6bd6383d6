"""One HTTP job, as the server holds it: the request, the progress, the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from upscaled_http.messages import Job, JobStatus, Retention
from upscaled_protocol.choices import FORMATS
from upscaled_protocol.envelope import WAITING_STAGE
from upscaled_protocol.messages import Error, Result

# Of a daemon's `result` and `error`, what a client sees: all that `Job` has too. The path of the
# output is the server's alone.
_OWN_FIELDS = {"job_id", "status"}
_RESULT_FIELDS = (Result.model_fields.keys() & Job.model_fields.keys()) - _OWN_FIELDS
_ERROR_FIELDS = (Error.model_fields.keys() & Job.model_fields.keys()) - _OWN_FIELDS


class Pixels(NamedTuple):
    """A picture's size."""

    width: int
    height: int


@dataclass(slots=True, kw_only=True, eq=False)
class Record:
    """A job. The registry keeps all of it but its progress.

    line: the job's line for the daemon; None once the job has ended.
    file_name: of the result, in the results' folder; None if there is no file (any more).
    """

    job_id: str
    owner: str
    method: str
    created_at: float
    line: bytes | None
    batch_id: str | None = None
    label: str | None = None
    name: str | None = None
    priority: int = 0
    retention: Retention = "keep"
    webhook: str | None = None
    input_size: Pixels | None = None
    planned_size: Pixels | None = None

    status: JobStatus = "queued"
    finished_at: float | None = None
    expires_at: float | None = None
    file_name: str | None = None
    file_size_bytes: int | None = None
    outcome: dict[str, Any] = field(default_factory=dict)
    is_cancelled: bool = False
    # A job that has not ended cannot be removed yet: it is hidden, and removed at its end.
    is_deleted: bool = False

    started_at: float | None = None
    progress: float = 0.0
    stage: str | None = None
    eta_s: float | None = None
    position: int | None = None
    attempt: int = 1
    # When the daemon's last message about this job came, by the monotonic clock.
    heard_at: float = field(default_factory=time.monotonic)

    @property
    def has_ended(self) -> bool:
        """True once the job has its terminal status."""
        return self.finished_at is not None

    @property
    def media_type(self) -> str:
        """The media type of the result."""
        format_ = FORMATS.get(Path(self.file_name or "").suffix)
        return "application/octet-stream" if format_ is None else f"image/{format_}"

    def advance(self, message: Mapping[str, Any], now: float) -> None:
        """Apply the daemon's `progress`. A job that waits for its device has not started."""
        self.progress = max(self.progress, float(message.get("progress", 0.0)))
        self.stage = message.get("stage")
        self.eta_s = message.get("eta_s")
        self.attempt = int(message.get("attempt", 1))
        if self.stage != WAITING_STAGE and self.status == "queued":
            self.status = "processing"
            self.started_at = now
            self.position = None

    def complete(self, message: Mapping[str, Any], now: float) -> None:
        """Apply the daemon's `result`."""
        self.outcome = {name: message[name] for name in message if name in _RESULT_FIELDS}
        self.progress = 100.0
        self._end("completed", now)

    def fail(self, message: Mapping[str, Any], now: float) -> None:
        """Apply the daemon's `error`."""
        self.outcome = {name: message[name] for name in message if name in _ERROR_FIELDS}
        self.outcome["error"] = self.outcome.get("error") or "the job failed"
        self._end("cancelled" if self.outcome.get("code") == "cancelled" else "failed", now)

    def _end(self, status: JobStatus, now: float) -> None:
        self.status = status
        self.finished_at = now
        self.attempt = int(self.outcome.pop("attempt", self.attempt))
        self.stage = self.eta_s = self.position = None
        self.line = None

    def job(self) -> Job:
        """The job as its owner sees it."""
        url = f"/api/jobs/{self.job_id}"
        fields: dict[str, Any] = {
            "job_id": self.job_id,
            "batch_id": self.batch_id,
            "method": self.method,
            "status": self.status,
            "progress": self.progress,
            "stage": self.stage,
            "eta_s": self.eta_s,
            "position": self.position,
            "attempt": self.attempt,
            "label": self.label,
            "name": self.name,
            "created_at": time_of(self.created_at),
            "started_at": time_of(self.started_at),
            "finished_at": time_of(self.finished_at),
            "expires_at": time_of(self.expires_at),
            "input_size": _size(self.input_size),
            "output_size": _size(self.planned_size),
            "status_url": url,
            "events_url": f"{url}/events",
            "cancel_url": f"{url}/cancel",
            **self.outcome,
        }
        if self.file_name is not None and self.status == "completed":
            fields["result_url"] = f"/api/results/{self.file_name}"
            fields["media_type"] = self.media_type
            fields["file_size_bytes"] = self.file_size_bytes
        return Job(**fields)

    def body(self) -> bytes:
        """The job as JSON."""
        return self.job().model_dump_json(exclude_none=True).encode()


def time_of(seconds: float | None) -> datetime | None:
    """A time of the registry, in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _size(pixels: Pixels | None) -> dict[str, int] | None:
    return None if pixels is None else pixels._asdict()
