"""Every JSON body of the HTTP API, as models. `/openapi.json` and the clients' types are generated
from them.

Names are those of the protocol (`upscaled_protocol.messages`), times are RFC 3339 in UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from upscaled_protocol.faces import Face
from upscaled_protocol.messages import CropInfo, HealthStatus, Size, Timings, WorkerHealth

JobStatus = Literal["queued", "processing", "completed", "failed", "cancelled"]
EventType = Literal["job.completed", "job.failed", "job.cancelled"]
PictureEventType = Literal["picture.filed", "picture.failed"]
FilingStatus = Literal["waiting", "processing", "filed", "failed"]
Retention = Literal["keep", "delete_after_download"]


class Body(BaseModel):
    """An answer. Clients ignore fields that they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Job(Body):
    """A job, from its submit to the end of its record."""

    job_id: str = Field(description="A UUID, given by the server.")
    batch_id: str | None = Field(None, description="The batch that it was submitted with.")
    method: str
    status: JobStatus
    progress: float = Field(0.0, ge=0, le=100, description="Percent; it never falls.")
    stage: str | None = Field(None, description="What the worker is doing, such as `upscale`.")
    eta_s: float | None = Field(None, ge=0, description="Seconds left, if they are known.")
    position: int | None = Field(None, ge=0, description="Jobs that start before this one.")
    attempt: int = Field(1, ge=1)
    label: str | None = Field(None, description="The client's own name for it.")
    name: str | None = Field(
        None, description="The upload's file name, or the end of `image_url`, cleaned: for display."
    )
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = Field(None, description="When the result will be removed.")
    input_size: Size | None = None
    output_size: Size | None = Field(
        None, description="Planned from the submit on; the real one when it is completed."
    )
    status_url: str
    events_url: str
    cancel_url: str
    # A completed job.
    result_url: str | None = None
    media_type: str | None = Field(None, description="Of the result, such as `image/png`.")
    file_size_bytes: int | None = Field(None, ge=0)
    scale_factor: float | None = None
    crop_info: CropInfo | None = None
    processing_time: float | None = Field(None, ge=0, description="Seconds, queue left out.")
    timings: Timings | None = None
    model: str | None = None
    model_reason: str | None = Field(None, description="Why `auto` chose the model.")
    device: str | None = None
    precision: str | None = None
    upstream_calls: int | None = Field(None, ge=0)
    faces: list[Face] | None = Field(
        None, description="The faces that were found, if the job was to look for them."
    )
    warnings: list[str] = []
    # A failed or cancelled job.
    error: str | None = Field(None, description="One sentence.")
    code: str | None = Field(None, description="A stable code, such as `input_unreadable`.")
    retryable: bool | None = None


class WebhookEvent(Body):
    """The body of a webhook: the end of a job."""

    type: EventType
    timestamp: datetime = Field(description="When the job ended.")
    data: Job


class PipelineResult(Body):
    """What became of a picture that was uploaded to the bucket."""

    original_key: str = Field(description="The file's name with a digest of its content.")
    status: Literal["success", "error"]
    folder: str = Field(description="`good_quality`, `upscaled` or `couldn't_upscale`.")
    s3_url: str
    quality_score: float | None = Field(None, description="Null if it could not be scored.")
    upscale_scale: int | None = Field(None, description="Null if it was not upscaled.")
    processed_at: datetime
    job_id: str = Field(description="Of its record in the bucket, `results/JOB_ID.json`.")
    code: str | None = Field(None, description="Why it could not be upscaled; null on success.")
    faces: list[Face] | None = Field(
        None, description="The faces of the upscaled picture. Null if none were looked for."
    )


class PipelineAnswer(Body):
    """The answer to a picture for the bucket. success: false if it could not be upscaled."""

    success: bool
    message: str
    result: PipelineResult


class FiledPicture(Body):
    """A picture on its way to the bucket. `success`, `message` and `result` are set once it is
    filed, `problem` if it failed."""

    picture_id: str = Field(description="A UUID, given by the server.")
    name: str | None = Field(None, description="The file's name, cleaned: for display.")
    status: FilingStatus
    detail: str | None = Field(None, description="Why it waits, if a try has failed.")
    job_id: str | None = Field(None, description="The job that upscales it, at `/api/jobs/`.")
    created_at: datetime
    finished_at: datetime | None = None
    success: bool | None = None
    message: str | None = None
    result: PipelineResult | None = None
    problem: Problem | None = None


class PictureBatch(Body):
    """Several pictures for the bucket that were uploaded together."""

    batch_id: str
    status: Literal["processing", "finished"]
    status_url: str
    pictures: list[FiledPicture]
    refused: list[Problem] = Field([], description="Files that were not accepted, with reasons.")


class PictureEvent(Body):
    """The body of a picture's webhook: it is filed, or cannot be."""

    type: PictureEventType
    timestamp: datetime
    data: FiledPicture


class ScoreCount(Body):
    """Pictures whose score is from the last entry's `below` up to this one's."""

    below: float | None = Field(None, description="Null for the last entry, which has no end.")
    pictures: int


class PipelineStats(Body):
    """The pipeline, and the pictures that went through this server since the records begin
    (`keep_records_days`). A picture that had a record before is not counted."""

    bucket: str
    threshold: float
    scale: int
    score: str
    folders: dict[str, int] = Field(description="Pictures, by folder.")
    scores: list[ScoreCount]
    success_rate: float | None = Field(
        None, description="The share outside of `couldn't_upscale`. Null without pictures."
    )
    seconds_per_picture: float | None = Field(
        None, description="From receipt to record, on average. Null without pictures."
    )
    open: int = Field(description="Pictures of batches that are not filed yet.")
    recent: list[FiledPicture] = Field(description="The last ones received, the newest first.")


class JobList(Body):
    """Jobs, the newest first."""

    jobs: list[Job]
    next: str | None = Field(None, description="`before` of the next page; null at the end.")


class Batch(Body):
    """Several pictures that were submitted together."""

    batch_id: str
    jobs: list[Job]
    refused: list[Problem] = Field([], description="Files that were not accepted, with reasons.")
    results_url: str = Field(description="One zip of the results that are completed.")


class FieldError(Body):
    """One field of a request that is wrong."""

    field: str
    detail: str


class Problem(Body):
    """An error (RFC 9457, `application/problem+json`)."""

    type: str = Field("about:blank", description="A URI of this kind of problem.")
    title: str
    status: int
    detail: str = Field(description="One sentence: what is wrong, and what to do.")
    code: str
    retryable: bool = False
    errors: list[FieldError] = []
    job_id: str | None = None
    name: str | None = Field(None, description="The refused file of a batch.")


class Model(Body):
    """A model that `model` may name."""

    name: str
    method: str
    scale: int | None = Field(None, description="The network's own; null if it has none.")
    supported_scales: list[float] = []
    licence: str | None = None
    commercial_use: bool | None = Field(None, description="Null if the licence leaves it open.")
    description: str = ""
    installed: bool
    default: bool = False


class ModelList(Body):
    """The catalogue's models of the methods that this server runs."""

    models: list[Model]


class Limits(Body):
    """What a request may ask for."""

    max_request_mb: int
    max_input_megapixels: float
    max_output_megapixels: float
    max_queue: int
    rate_per_minute: int
    max_wait_s: float
    job_timeout_s: float


class Health(Body):
    """How the server and its daemon are."""

    status: HealthStatus
    detail: str | None = None
    version: str
    uptime_s: float
    methods: list[str] = []
    unavailable: dict[str, str] = {}
    queue_size: int
    in_flight: int
    models_loaded: list[str] = []
    device: str | None = None
    gpu_available: bool | None = None
    gpu_name: str | None = None
    gpu_memory_free: float | None = Field(None, description="GB.")
    daemon_restarts: int = 0
    has_pipeline: bool = Field(
        False, description="It files pictures in a bucket, at `/api/images`."
    )
    limits: Limits
    workers: list[WorkerHealth] | None = Field(
        None, description="Only for a request with a key, if keys are set."
    )


class MethodStats(Body):
    """Counts since the records begin (`keep_records_days`)."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    seconds: float = Field(0.0, description="Processing time of the completed jobs.")


class Stats(Body):
    """Jobs by method and outcome, the queue, and the bytes on disk."""

    methods: dict[str, MethodStats]
    queue_size: int
    in_flight: int
    uploads_bytes: int
    results_bytes: int


class QueueDepth(Body):
    """One method's jobs in the queue, and its machines."""

    waiting: int
    running: int
    oldest_s: float | None = Field(
        None, description="Of those that wait. Null if nothing waits, or RabbitMQ does not tell."
    )
    machines: int


class CleanupRequest(Body):
    """What a cleanup may remove."""

    # strict: false is no 0, which would remove everything.
    older_than_s: float = Field(ge=0, strict=True, description="Since the job's end.")


class EncodedResult(Body):
    """A result in base64."""

    image_base64: str
    media_type: str


class Cleanup(Body):
    """What a cleanup removed."""

    removed_files: int
    freed_bytes: int


class Probe(Body):
    """A probe's answer; its status is 503 if `ok` is false."""

    ok: bool
