"""The stable error codes of the wire, and the one exception that carries them.

A code never changes its meaning; new codes may be added within a protocol version. Each adapter
maps every code, which its tests check against the generated schema.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple


class ErrorCode(StrEnum):
    """What went wrong, for programs. The sentence beside it is for people."""

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
    """What a code tells a host: whether the same job may succeed later, and when it is sent."""

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
        False, "the job_id is in flight; `refused_job_id` names it, the first job goes on"
    ),
    ErrorCode.QUEUE_FULL: CodeMeaning(True, "the queue is at its limit; send the job again later"),
    ErrorCode.INPUT_NOT_FOUND: CodeMeaning(False, "there is no input file at that path or URL"),
    ErrorCode.INPUT_UNREADABLE: CodeMeaning(
        False, "the input is broken, truncated or of no known kind"
    ),
    ErrorCode.INPUT_TOO_LARGE: CodeMeaning(False, "the input passes a size limit"),
    ErrorCode.UNSUPPORTED_FORMAT: CodeMeaning(
        False, "the input or the output is of a kind that is not read or written here"
    ),
    ErrorCode.OUTPUT_UNWRITABLE: CodeMeaning(False, "the output cannot be written"),
    ErrorCode.PATH_NOT_ALLOWED: CodeMeaning(
        False,
        "a path lies outside the allowed roots, or a URL points into a private network or at a "
        "host that is not allowed",
    ),
    ErrorCode.MODEL_NOT_FOUND: CodeMeaning(False, "the model is neither known nor a file"),
    ErrorCode.MODEL_CORRUPT: CodeMeaning(
        False, "the weights are truncated, altered or of no known architecture"
    ),
    ErrorCode.MODEL_UNSAFE: CodeMeaning(False, "the weights would run code when loaded"),
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
        "the job's worker died, and max_attempts allowed one start; or no worker can be kept "
        "alive to run it",
    ),
    ErrorCode.POISONED: CodeMeaning(
        False,
        "the job brought its worker down on each of its attempts, or three daemons were killed "
        "while it ran; `cause` says how",
    ),
    ErrorCode.UPSTREAM_AUTH: CodeMeaning(False, "the cloud service refused the credentials"),
    ErrorCode.UPSTREAM_QUOTA: CodeMeaning(True, "the cloud service's quota is used up"),
    ErrorCode.UPSTREAM_FILTERED: CodeMeaning(
        False, "the cloud service's safety filter refused the picture"
    ),
    ErrorCode.UPSTREAM_UNAVAILABLE: CodeMeaning(True, "the cloud service did not answer rightly"),
    ErrorCode.JOURNAL_UNWRITABLE: CodeMeaning(
        True, "the journal cannot be written (a full disk), so the job was not accepted"
    ),
    ErrorCode.SHUTTING_DOWN: CodeMeaning(True, "the daemon takes no more jobs; it is going down"),
    ErrorCode.INTERNAL: CodeMeaning(False, "a defect in upscaled; the traceback says where"),
}


class JobError(Exception):
    """A failure with a stable code. Every package raises this one to end a job with an `error`.

    ``message`` is one plain sentence that says what is wrong and, where it helps, what to do.
    """

    def __init__(self, code: ErrorCode, message: str, *, job_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.job_id = job_id
        # What a refused line has in the place of an id, if that cannot be one.
        self.refused_job_id: str | None = None

    @property
    def retryable(self) -> bool:
        """Whether the very same job may succeed later."""
        return MEANINGS[self.code].retryable

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
