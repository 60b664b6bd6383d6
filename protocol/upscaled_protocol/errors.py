"""The stable error codes of the wire, and the one exception that carries them.

A code never changes its meaning. A protocol version may get new codes. Each adapter maps every
code; its tests check that against the generated schema.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple


class ErrorCode(StrEnum):
    """What went wrong, for programs. The sentence with it is for people."""

    INVALID_JSON = "invalid_json"
    INVALID_JOB = "invalid_job"
    UNKNOWN_METHOD = "unknown_method"
    LINE_TOO_LONG = "line_too_long"
    DUPLICATE_JOB = "duplicate_job"
    QUEUE_FULL = "queue_full"
    INPUT_NOT_FOUND = "input_not_found"
    INPUT_UNREADABLE = "input_unreadable"
    INPUT_TOO_LARGE = "input_too_large"
    UNSUPPORTED_FORMAT = "unsupported_format"
    OUTPUT_UNWRITABLE = "output_unwritable"
    PATH_NOT_ALLOWED = "path_not_allowed"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_CORRUPT = "model_corrupt"
    MODEL_UNSAFE = "model_unsafe"
    OUT_OF_MEMORY = "out_of_memory"
    CANCELLED = "cancelled"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    STALLED = "stalled"
    WORKER_CRASHED = "worker_crashed"
    POISONED = "poisoned"
    UPSTREAM_AUTH = "upstream_auth"
    UPSTREAM_QUOTA = "upstream_quota"
    UPSTREAM_FILTERED = "upstream_filtered"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    JOURNAL_UNWRITABLE = "journal_unwritable"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"


class CodeMeaning(NamedTuple):
    """The meaning of a code. retryable: the same job may succeed later, if its error agrees."""

    retryable: bool
    raised_when: str


MEANINGS: dict[ErrorCode, CodeMeaning] = {
    ErrorCode.INVALID_JSON: CodeMeaning(False, "the line is not one JSON object in UTF-8"),
    ErrorCode.INVALID_JOB: CodeMeaning(
        False, "a field is missing, unknown or out of range; the sentence names it"
    ),
    ErrorCode.UNKNOWN_METHOD: CodeMeaning(False, "the method or message type is not served here"),
    ErrorCode.LINE_TOO_LONG: CodeMeaning(False, "the line passes the limit (32 MiB by default)"),
    ErrorCode.DUPLICATE_JOB: CodeMeaning(
        False, "the job_id is in flight; `refused_job_id` names it, and the first job continues"
    ),
    ErrorCode.QUEUE_FULL: CodeMeaning(True, "the queue is at its limit; send the job again later"),
    ErrorCode.INPUT_NOT_FOUND: CodeMeaning(False, "there is no input file at that path or URL"),
    ErrorCode.INPUT_UNREADABLE: CodeMeaning(
        False, "the input is broken, truncated or of an unknown kind"
    ),
    ErrorCode.INPUT_TOO_LARGE: CodeMeaning(False, "the input passes a size limit"),
    ErrorCode.UNSUPPORTED_FORMAT: CodeMeaning(
        False, "the kind of the input cannot be read, or that of the output cannot be written"
    ),
    ErrorCode.OUTPUT_UNWRITABLE: CodeMeaning(False, "the output cannot be written"),
    ErrorCode.PATH_NOT_ALLOWED: CodeMeaning(
        False,
        "a path lies outside the allowed roots, or a URL leads to a private network or to a "
        "host, bucket or folder that is not allowed",
    ),
    ErrorCode.STORAGE_UNAVAILABLE: CodeMeaning(
        True, "the object storage of a URL does not answer, or fails, also after several tries"
    ),
    ErrorCode.MODEL_NOT_FOUND: CodeMeaning(
        False, "there is no model of that name, and no such file"
    ),
    ErrorCode.MODEL_CORRUPT: CodeMeaning(
        False, "the weights are truncated, altered or of an unknown architecture"
    ),
    ErrorCode.MODEL_UNSAFE: CodeMeaning(False, "the weights would run code when they are loaded"),
    ErrorCode.OUT_OF_MEMORY: CodeMeaning(
        True, "memory ran out even at the smallest tile size, or a growing worker was stopped"
    ),
    ErrorCode.CANCELLED: CodeMeaning(False, "the host cancelled the job"),
    ErrorCode.DEADLINE_EXCEEDED: CodeMeaning(False, "the job's timeout_s passed"),
    ErrorCode.STALLED: CodeMeaning(
        True, "the job made no progress within its budget, and max_attempts allowed one start"
    ),
    ErrorCode.WORKER_CRASHED: CodeMeaning(
        True,
        "the job's worker crashed, and max_attempts allowed one start; or no worker can be "
        "started, which is not retryable if the workers' options are wrong",
    ),
    ErrorCode.POISONED: CodeMeaning(
        False,
        "the job's worker crashed on each attempt, or three daemons were killed while the job "
        "ran; `cause` says how",
    ),
    ErrorCode.UPSTREAM_AUTH: CodeMeaning(False, "the cloud service refused the credentials"),
    ErrorCode.UPSTREAM_QUOTA: CodeMeaning(True, "the cloud service's quota is used up"),
    ErrorCode.UPSTREAM_FILTERED: CodeMeaning(
        False, "the cloud service's safety filter refused the picture"
    ),
    ErrorCode.UPSTREAM_UNAVAILABLE: CodeMeaning(
        True, "the cloud service did not answer, or its answer was wrong"
    ),
    ErrorCode.JOURNAL_UNWRITABLE: CodeMeaning(
        True, "the journal cannot be written (a full disk), so the job was not accepted"
    ),
    ErrorCode.SHUTTING_DOWN: CodeMeaning(
        True, "the daemon is shutting down and takes no more jobs"
    ),
    ErrorCode.INTERNAL: CodeMeaning(False, "a defect in upscaled; the traceback shows its place"),
}


class JobError(Exception):
    """A failure with a stable code. Every package raises it to end a job with an `error`.

    `message` is one sentence that says what is wrong and, if that helps, what to do.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        job_id: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        """retryable: the same job may succeed later; None: as the code says."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.job_id = job_id
        self.retryable = MEANINGS[code].retryable if retryable is None else retryable
        # The value that a refused line has as its job_id, if it cannot be an id.
        self.refused_job_id: str | None = None

    def message_fields(self) -> dict[str, Any]:
        """The fields of the `error` message that answers a line or a job with this failure."""
        fields = {
            "type": "error",
            "job_id": self.job_id,
            "error": self.message,
            "code": self.code,
            "retryable": self.retryable,
        }
        if self.refused_job_id is not None:
            fields["refused_job_id"] = self.refused_job_id
        return fields
