"""The exceptions of calls: one class per family of the protocol's codes, all below `UpscaledError`.

Use the class, or `code`. If you know neither, use `retryable`: a later daemon may have new codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from upscaled.protocol import ERROR_CODES


class UpscaledError(Exception):
    """Raised when a job ends without a result. `str(error)` is one sentence for people.

    code: the protocol's; None if the daemon gave none. retryable: the same job may succeed later.
    details: the daemon's message, with `cause`, `attempt` and `traceback`.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool | None = None,
        job_id: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        known = ERROR_CODES.get(code, False) if code is not None else False
        self.retryable = known if retryable is None else retryable
        self.job_id = job_id
        self.details: Mapping[str, Any] = details if details is not None else {}


class InvalidJobError(UpscaledError, ValueError):
    """Raised when the job cannot be sent, or the daemon refuses it as it is."""


class QueueFullError(UpscaledError):
    """Raised when the daemon has no room for the job, and no job of this client will make room."""


class InputError(UpscaledError):
    """Raised when the input is missing, broken, too large or of a kind that is not read."""


class OutputError(UpscaledError):
    """Raised when the output cannot be written."""


class NotAllowedError(UpscaledError):
    """Raised when a path or a URL lies outside of what the daemon allows."""


class ModelError(UpscaledError):
    """Raised when the model is missing, broken or unsafe."""


class OutOfMemoryError(UpscaledError):
    """Raised when memory ran out even at the smallest tile size."""


class JobCancelledError(UpscaledError):
    """Raised when the job was cancelled, by its call or by the end of the client."""


class DeadlineExceededError(UpscaledError, TimeoutError):
    """Raised when the job's `timeout_s` passed."""


class WorkerError(UpscaledError):
    """Raised when the job's worker exited or hung, and the job may not be tried again."""


class UpstreamError(UpscaledError):
    """Raised when a cloud service refused the job or did not answer."""


class StorageError(UpscaledError):
    """Raised when the object storage of a URL does not answer."""


class JournalError(UpscaledError):
    """Raised when the journal cannot be written, so that the job was not accepted."""


class ShuttingDownError(UpscaledError):
    """Raised when the daemon, or the client, takes no more jobs."""


class InternalError(UpscaledError):
    """Raised for a defect in upscaled. `details["traceback"]` has its place."""


class DaemonGoneError(UpscaledError):
    """Raised when the daemon ended after it had accepted the job, or cannot be started. The job may
    have run or not. The text has the last lines of the daemon's stderr.

    status: its exit status, negative if a signal ended it; None if it never ran.
    """

    def __init__(
        self, message: str, *, status: int | None = None, job_id: str | None = None
    ) -> None:
        super().__init__(message, retryable=True, job_id=job_id)
        self.status = status

    def of_job(self, job_id: str | None) -> DaemonGoneError:
        """A copy for one job: each raised exception keeps its own traceback."""
        error = DaemonGoneError(str(self), status=self.status, job_id=job_id)
        error.__cause__ = self.__cause__
        return error


class NoAnswerError(UpscaledError, TimeoutError):
    """Raised when the daemon does not answer a question in time: it is busy, stopped or stuck."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


class ForkedError(UpscaledError):
    """Raised in a forked process by a call of its parent. The parent gets the result."""

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(message, retryable=True, job_id=job_id)


FAMILIES: dict[str, type[UpscaledError]] = {
    "invalid_json": InvalidJobError,
    "invalid_job": InvalidJobError,
    "unknown_method": InvalidJobError,
    "line_too_long": InvalidJobError,
    "duplicate_job": InvalidJobError,
    "queue_full": QueueFullError,
    "input_not_found": InputError,
    "input_unreadable": InputError,
    "input_too_large": InputError,
    "unsupported_format": InputError,
    "output_unwritable": OutputError,
    "path_not_allowed": NotAllowedError,
    "storage_unavailable": StorageError,
    "model_not_found": ModelError,
    "model_corrupt": ModelError,
    "model_unsafe": ModelError,
    "out_of_memory": OutOfMemoryError,
    "cancelled": JobCancelledError,
    "deadline_exceeded": DeadlineExceededError,
    "stalled": WorkerError,
    "worker_crashed": WorkerError,
    "poisoned": WorkerError,
    "upstream_auth": UpstreamError,
    "upstream_quota": UpstreamError,
    "upstream_filtered": UpstreamError,
    "upstream_unavailable": UpstreamError,
    "journal_unwritable": JournalError,
    "shutting_down": ShuttingDownError,
    "internal": InternalError,
}


def error_of(message: Mapping[str, Any]) -> UpscaledError:
    """The exception for a daemon's `error`. Any field may be missing or of the wrong type."""
    code = message.get("code")
    known = code if isinstance(code, str) else None
    job_id = message.get("job_id")
    return FAMILIES.get(known or "", UpscaledError)(
        str(message.get("error") or "the job failed"),
        code=known,
        # Without the field an error is not retryable, for any code.
        retryable=message.get("retryable") is True,
        job_id=job_id if isinstance(job_id, str) else None,
        details=message,
    )


def closed_error(job_id: str) -> UpscaledError:
    """The error of a job that a closed client does not take, or does not wait for."""
    return local_error("shutting_down", "the client is closed", job_id)


def duplicate_error(job_id: str) -> UpscaledError:
    """The error of a job whose id is taken."""
    return local_error("duplicate_job", f"job {job_id!r} is in flight", job_id)


def local_error(code: str, message: str, job_id: str | None = None) -> UpscaledError:
    """The error that the daemon would send, for a job that is not sent to it."""
    details = {"error": message, "code": code, "retryable": ERROR_CODES[code], "job_id": job_id}
    return error_of({name: value for name, value in details.items() if value is not None})
