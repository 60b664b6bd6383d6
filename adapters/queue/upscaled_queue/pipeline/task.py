"""A picture of a bucket as a queued job: the form of its message.

    {"job_id": "s3://pictures/photo.jpg", "method": "pipeline",
     "config": {"bucket": "s3://pictures", "key": "photo.jpg"}}

The picture itself is in the bucket, as `incoming/photo.jpg`.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from upscaled_protocol.envelope import MAX_JOB_ID_LENGTH
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_queue.job import PIPELINE, Message
from upscaled_queue.pipeline.process import DEFAULT_SCALE, DEFAULT_THRESHOLD

# One name: without folders, and no name that a file system or a bucket reads in another way.
_KEY = r"^[^/\\\x00-\x1f\x7f]*[^/\\\x00-\x1f\x7f.][^/\\\x00-\x1f\x7f]*$"


class QueueAwayError(Exception):
    """Raised if the queue cannot be reached: the same may succeed later."""


class UnsafeQueueError(Exception):
    """Raised for a queue that would lose pictures. `str(error)` says how to set it."""


class PictureTask(BaseModel):
    """The config of a picture's message. score: a name; the machine decides which ones it takes.
    model: a name of the catalogue; the bundled one that suits the picture if None. faces: restore
    the faces of a picture that is upscaled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bucket: Annotated[str, StringConstraints(pattern=r"^(s3|gs|az)://[^?#]+$", max_length=1000)]
    key: Annotated[str, StringConstraints(pattern=_KEY, max_length=200)]
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = DEFAULT_THRESHOLD
    scale: Literal[2, 4] = DEFAULT_SCALE
    score: str = "resolution"
    model: str | None = None
    faces: bool = False

    @property
    def job_id(self) -> str:
        """The id of its job, if its producer gives none: a picture is processed once per bucket."""
        name = f"{self.bucket.rstrip('/')}/{self.key}"
        if len(name) <= MAX_JOB_ID_LENGTH:
            return name
        return hashlib.sha256(name.encode()).hexdigest()

    def message(self) -> Message:
        """The job's message, without the defaults."""
        return {
            "job_id": self.job_id,
            "method": PIPELINE,
            "config": self.model_dump(exclude_defaults=True),
        }


def read_task(config: Any) -> PictureTask:
    """The task of a config. Raises `JobError` (invalid_job), which names the first wrong field."""
    try:
        return PictureTask.model_validate(config)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(["config", *map(str, fault["loc"])])
        text = f"{field} of a picture for the pipeline: {fault['msg']}"
        raise JobError(ErrorCode.INVALID_JOB, text) from None
