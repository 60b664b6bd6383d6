"""A queued message: a job of the protocol, with two more fields that the daemon does not get.

Everyone who can write to the queue can submit jobs, so a machine refuses more than a daemon on
stdio does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from upscaled.errors import UpscaledError
from upscaled_protocol.envelope import open_envelope, quote
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.lines import encode_line
from upscaled_webhooks.webhookurl import host_of

Message = dict[str, Any]

# The method of a picture for the pipeline. The protocol has no such method: a machine runs it
# itself, and gives its daemon jobs of `UPSCALING_METHOD`.
PIPELINE = "pipeline"
UPSCALING_METHOD = "esrgan"

# The queue's own fields: a daemon would warn in the result that they are unknown.
_OWN_FIELDS = ("webhook_url", "traceparent")

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_PATHS = ("image_path", "output_path")
_MODELS = ("model", "upscale_model", "pre_model", "face_model")
# As `upscaled_models.catalog` has them, which this package does not import.
_WEIGHTS = (".safetensors", ".sft", ".pth", ".pt", ".ckpt", ".gguf")

# Celery's priorities on Redis: 0 to 9, 0 first. The protocol's are whole numbers, higher first, and
# 0 by default. So four above the default differ, and five below it.
_LEVEL_OF_DEFAULT = 4
_LAST_LEVEL = 9
# BullMQ's are 1, the first, to 2 097 152. The protocol's are -1 000 000 to 1 000 000.
_BULLMQ_DEFAULT = 1_048_576


@dataclass(frozen=True)
class QueuedJob:
    """fields: the job as it was given. message: what the daemon gets, if it is a job of the
    protocol."""

    job_id: str
    method: str
    priority: int
    fields: Message
    message: Message

    @property
    def traceparent(self) -> str | None:
        """The job's trace, as W3C Trace Context writes it; None if the field has another form."""
        value = self.fields.get("traceparent")
        return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None

    @property
    def webhook_url(self) -> str | None:
        """The URL that the job's end is sent to."""
        return self.fields.get("webhook_url")


def read_job(fields: object) -> QueuedJob:
    """The job of a message. Raises `JobError`, which has the job's id if one can be read."""
    if not isinstance(fields, Mapping):
        raise JobError(ErrorCode.INVALID_JOB, "a job is an object with a method and a config")
    is_picture = fields.get("method") == PIPELINE
    try:
        line = encode_line({**fields, "method": UPSCALING_METHOD} if is_picture else dict(fields))
    except (TypeError, ValueError) as error:
        raise JobError(ErrorCode.INVALID_JOB, f"a value cannot be in JSON: {error}") from None
    envelope = open_envelope(line)
    if envelope.type != "job" or envelope.job_id is None:
        kind = quote(envelope.type)
        raise JobError(
            ErrorCode.INVALID_JOB,
            f"a queue takes jobs, not messages of the type {kind}",
            job_id=envelope.job_id,
        )
    config = envelope.fields.get("config")
    if isinstance(config, dict) and config.get("output_base64"):
        raise JobError(
            ErrorCode.INVALID_JOB,
            "output_base64 is not for a queue, because records hold no pictures: give output_path",
            job_id=envelope.job_id,
        )
    _check_webhook_url(envelope.fields.get("webhook_url"), envelope.job_id)
    method = PIPELINE if is_picture else envelope.method
    given = {**envelope.fields, "method": method}
    message = {name: value for name, value in given.items() if name not in _OWN_FIELDS}
    return QueuedJob(envelope.job_id, method, envelope.priority, given, message)


def check_allowed(job: QueuedJob, allow_urls: Sequence[str], *, takes_paths: bool = True) -> None:
    """Raise `JobError` for a URL or a bucket that is not below one of these, for a model that is a
    file, and for any path if the machine takes none. The daemon checks the paths of a machine that
    takes some, by `--allow-root`."""
    config = job.message.get("config")
    if not isinstance(config, dict):
        return
    for name in _PATHS:
        path = config.get(name)
        if isinstance(path, str) and not takes_paths:
            raise JobError(
                ErrorCode.PATH_NOT_ALLOWED,
                f"{name} {quote(path)} is refused, because this machine allows no local paths: "
                "`upscaled work --allow-root DIR` allows those below DIR",
                job_id=job.job_id,
            )
    for name in _MODELS:
        model = config.get(name)
        if isinstance(model, str) and ("/" in model or model.lower().endswith(_WEIGHTS)):
            raise JobError(
                ErrorCode.PATH_NOT_ALLOWED,
                f"{name} {quote(model)} is a file: a queued job names a model of the catalogue",
                job_id=job.job_id,
            )
    for name in ("image_url", "output_url", "bucket"):
        url = config.get(name)
        if not isinstance(url, str):
            continue
        # A bucket is all that is below it.
        place = f"{url.rstrip('/')}/" if name == "bucket" else url
        if not any(_is_below(place, one) for one in allow_urls):
            raise JobError(
                ErrorCode.PATH_NOT_ALLOWED,
                f"{name} {quote(url.partition('?')[0])} is not below any --allow-url of the "
                "machine",
                job_id=job.job_id,
            )


def _check_webhook_url(url: object, job_id: str) -> None:
    if url is None:
        return
    try:
        if not isinstance(url, str):
            raise ValueError("webhook_url is a text")
        host_of(url, "webhook_url")
    except ValueError as error:
        raise JobError(ErrorCode.INVALID_JOB, str(error), job_id=job_id) from None


def level_of(priority: int) -> int:
    """The priority for Celery on Redis: 0 to 9, 0 first."""
    return max(0, min(_LAST_LEVEL, _LEVEL_OF_DEFAULT - priority))


def bullmq_priority(priority: int) -> int:
    """The priority for BullMQ: 1 first."""
    return _BULLMQ_DEFAULT - priority


def error_event(error: JobError, job_id: str, **more: Any) -> Message:
    """The terminal event of a job that ends without a daemon."""
    return {**error.message_fields(), "job_id": job_id, **more}


def event_of(error: UpscaledError, job_id: str) -> Message:
    """The daemon's terminal event of a job that failed."""
    return {
        "type": "error",
        **cast(Message, dict(error.details)),
        "job_id": job_id,
        "error": str(error),
        "code": error.code or "internal",
        "retryable": error.retryable,
    }


def cancelled_event(job: QueuedJob, when: str) -> Message:
    """The terminal event of a cancelled job that no daemon ended. when: completes the sentence."""
    error = JobError(ErrorCode.CANCELLED, f"the job was cancelled {when}")
    return error_event(error, job.job_id)


def poisoned_event(job: QueuedJob, deliveries: int) -> Message:
    """The terminal event of a job that was started too often."""
    text = f"the job was started {deliveries} times, and its machine was lost each time"
    cause = {"reason": "supervisor_killed", "detail": text}
    error = JobError(ErrorCode.POISONED, text)
    return error_event(error, job.job_id, cause=cause, attempt=deliveries)


def without_picture(fields: Message) -> Message | None:
    """The job to be kept for `requeue`; None if its picture is in it."""
    config = fields.get("config")
    if isinstance(config, dict) and config.get("image_base64"):
        return None
    return fields


def _is_below(url: str, allowed: str) -> bool:
    one, root = urlsplit(url), urlsplit(allowed)
    if (one.scheme, one.netloc) != (root.scheme, root.netloc) or ".." in one.path.split("/"):
        return False
    return one.path.startswith(root.path.rstrip("/") + "/")
