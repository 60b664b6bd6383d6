"""Every message of the protocol, as tagged unions.

Host to worker: `Job` (also without a `type`), `Cancel`, `Health`, `Trim`, `Replay`, `Shutdown`.
Worker to host: `Status`, `Accepted`, `Progress`, `Result`, `Error`, `HealthReport`.
`protocol/README.md` is the normative text; `protocol/schema` is generated from this module.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, Field, ValidatorFunctionWrapHandler, WrapValidator

from upscaled_protocol.configs import (
    Config,
    EsrganConfig,
    FaceConfig,
    FakeConfig,
    FluxConfig,
    ImagenConfig,
)
from upscaled_protocol.envelope import (
    DEFAULT_MAX_ATTEMPTS,
    MAX_ACCEPTED_AS_LENGTH,
    MAX_ATTEMPTS_LIMIT,
    MAX_JOB_ID_LENGTH,
    MAX_PRIORITY,
    MAX_REQUEST_ID_LENGTH,
    MAX_TIMEOUT_S,
)
from upscaled_protocol.errors import ErrorCode
from upscaled_protocol.faces import Face
from upscaled_protocol.wiremodels import HostMessage, WorkerMessage

JobId = Annotated[str, Field(min_length=1, max_length=MAX_JOB_ID_LENGTH)]


def _take_any_text(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    is_short = isinstance(value, str) and 1 <= len(value) <= MAX_JOB_ID_LENGTH
    return value if is_short else handler(value)


# The id of a refused line, even with half a surrogate pair: the host uses it as the id.
RefusedId = Annotated[JobId, WrapValidator(_take_any_text)]
RequestId = Annotated[str, Field(min_length=1, max_length=MAX_REQUEST_ID_LENGTH)]


# --- host to worker -------------------------------------------------------------------------


class BaseJob(HostMessage):
    """The fields of all jobs. `config` depends on `method`."""

    type: Literal["job"] = "job"
    job_id: JobId
    priority: int = Field(
        0, ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="Higher first; equal ones in order."
    )
    timeout_s: float | None = Field(
        None,
        gt=0,
        le=MAX_TIMEOUT_S,
        allow_inf_nan=False,
        description="From acceptance to the terminal event; then deadline_exceeded.",
    )
    max_attempts: int = Field(
        DEFAULT_MAX_ATTEMPTS,
        ge=1,
        le=MAX_ATTEMPTS_LIMIT,
        description="Starts of a job that crashes its worker; then it ends as poisoned.",
    )
    attempt: int = Field(1, ge=1, description="Set by a supervisor; hosts leave it out.")
    accepted_as: str | None = Field(
        None,
        max_length=MAX_ACCEPTED_AS_LENGTH,
        description="Set by a supervisor: its name for this acceptance, in each run of the job.",
    )


class EsrganJob(BaseJob):
    """Upscale with an ESRGAN-family network."""

    method: Literal["esrgan"]
    config: EsrganConfig


class FluxJob(BaseJob):
    """Upscale with FLUX.1-dev."""

    method: Literal["flux"]
    config: FluxConfig


class ImagenJob(BaseJob):
    """Upscale with Imagen on Vertex AI."""

    method: Literal["imagen"]
    config: ImagenConfig


class FaceJob(BaseJob):
    """Restore the faces of a picture."""

    method: Literal["face"]
    config: FaceConfig


class FakeJob(BaseJob):
    """Test a host: see `FakeConfig`."""

    method: Literal["fake"]
    config: FakeConfig = FakeConfig()


AnyJob = EsrganJob | FluxJob | ImagenJob | FaceJob | FakeJob
Job = Annotated[AnyJob, Field(discriminator="method")]


class Cancel(HostMessage):
    """End a job with `cancelled`. May come before, during or after its job."""

    type: Literal["cancel"]
    job_id: JobId


class Health(HostMessage):
    """Ask for a `health` message."""

    type: Literal["health"]
    request_id: RequestId | None = Field(None, description="Repeated in the answer.")


class Trim(HostMessage):
    """Free caches and unload idle models. Answered by a `health` message when that is done."""

    type: Literal["trim"]
    request_id: RequestId | None = Field(None, description="Repeated in the answer.")


class Replay(HostMessage):
    """Ask a supervisor with a journal to send the terminal events of these jobs again.

    Without ids: of every finished job that the journal still holds. Unknown ids are ignored.
    """

    type: Literal["replay"]
    job_ids: list[JobId] | None = Field(None, fail_fast=True)


class Shutdown(HostMessage):
    """Accept no more jobs, finish the accepted ones, and exit. The end of input means the same."""

    type: Literal["shutdown"]


# --- worker to host -------------------------------------------------------------------------


class Size(WorkerMessage):
    """Pixels."""

    width: int = Field(ge=1)
    height: int = Field(ge=1)


CropDirection = Literal["vertical", "horizontal"]


class CropInfo(WorkerMessage):
    """By how much the upscaled picture is larger than the print, in one direction."""

    direction: CropDirection
    amount_px: int = Field(ge=0)
    amount_inches: float | None = Field(
        None, ge=0, description="amount_px / DPI; null if the DPI is unknown."
    )


class LaneInfo(WorkerMessage):
    """A queue inside the worker. Jobs of different lanes never wait for each other."""

    methods: list[str]
    slots: int = Field(ge=1, description="Jobs the lane holds at once.")


RestartReason = Literal[
    "exit",
    "signal",
    "oom_kill",
    "stall",
    "deadline",
    "cancel",
    "memory",
    "age",
    "job_count",
    "reload",
    "load_failed",
    "protocol_violation",
    "supervisor_killed",
]


class Cause(WorkerMessage):
    """Why a worker, or a job's supervisor, ended."""

    reason: RestartReason
    exit_code: int | None = None
    signal: str | None = Field(None, description="Such as SIGKILL.")
    detail: str | None = Field(None, description="One sentence.")


StatusMessage = Literal[
    "loading_models", "ready", "draining", "degraded", "worker_restarted", "stopped"
]


class Status(WorkerMessage):
    """The state of the daemon. `ready` is the handshake. Hosts may send jobs before it."""

    type: Literal["status"] = "status"
    message: StatusMessage
    protocol: int | None = None
    version: str | None = None
    methods: list[str] | None = None
    unavailable: dict[str, str] | None = Field(
        None, description="Methods that lack files or credentials, each with what to do."
    )
    models: list[str] | None = None
    device: str | None = None
    lanes: dict[str, LaneInfo] | None = None
    pid: int | None = None
    worker: int | None = Field(
        None, description="Number of the worker, from 0. Sent by supervisors only."
    )
    cause: Cause | None = None
    detail: str | None = None


class Accepted(WorkerMessage):
    """The job is accepted: exactly one `result` or `error` with its id follows."""

    type: Literal["accepted"] = "accepted"
    job_id: JobId
    position: int = Field(ge=0, description="Jobs that start before this one.")


class Progress(WorkerMessage):
    """Never decreases. A slow reader gets only the newest progress of a job."""

    type: Literal["progress"] = "progress"
    job_id: JobId
    progress: float = Field(ge=0, le=100, description="Percent.")
    stage: str
    done: int | None = Field(None, ge=0, description="Steps or tiles done in this stage.")
    total: int | None = Field(None, ge=0)
    eta_s: float | None = Field(None, ge=0)
    attempt: int = Field(1, ge=1)
    budget_s: float | None = Field(
        None, gt=0, description="After so long without a message the job counts as stalled."
    )


class Timings(WorkerMessage):
    """Seconds of a job, by phase. Phases overlap, so their sum may exceed the whole."""

    queue: float = Field(0.0, ge=0)
    load: float = Field(0.0, ge=0)
    decode: float = Field(0.0, ge=0)
    inference: float = Field(0.0, ge=0)
    encode: float = Field(0.0, ge=0)


class Result(WorkerMessage):
    """Terminal: the output is complete and in place."""

    type: Literal["result"] = "result"
    job_id: JobId
    status: Literal["completed"] = "completed"
    output_path: str | None = None
    output_base64: str | None = None
    output_url: str | None = Field(None, description="Without its query.")
    output_bytes: int | None = Field(None, ge=0, description="The size of an output at a URL.")
    input_size: Size | None = None
    output_size: Size | None = None
    scale_factor: float | None = None
    crop_info: CropInfo | None = None
    processing_time: float = Field(
        ge=0, description="Seconds from start to end, without the time in the queue."
    )
    timings: Timings
    model: str | None = None
    model_reason: str | None = Field(None, description="Why `auto` chose the model.")
    device: str | None = None
    precision: str | None = None
    upstream_calls: int | None = Field(
        None, ge=0, description="Cloud calls that were made; they may be billed."
    )
    faces: list[Face] | None = Field(
        None, description="The largest first. Null if the job was not to look for faces."
    )
    attempt: int = Field(1, ge=1)
    warnings: list[str] = []


class Error(WorkerMessage):
    """Terminal for `job_id`, which is null if the line has no usable id or that of another job."""

    type: Literal["error"] = "error"
    job_id: RefusedId | None
    error: str = Field(description="One sentence.")
    code: ErrorCode
    retryable: bool
    refused_job_id: str | None = Field(
        None,
        description="The id of a refused line that cannot be `job_id`, because a job of that id is "
        "in flight, or because no job may have it (it is empty, or a number or boolean as JSON, "
        "or the first 128 characters of a longer one).",
    )
    cause: Cause | None = None
    attempt: int | None = Field(None, ge=1)
    traceback: str | None = Field(None, description="For `internal` only.")


# "unresponsive": the process exists but does not answer `health`.
WorkerState = Literal["starting", "ready", "busy", "unresponsive", "draining", "backoff", "stopped"]


class WorkerHealth(WorkerMessage):
    """A supervisor's row for one worker."""

    worker: int
    state: WorkerState
    pid: int | None = None
    device: str | None = None
    jobs: list[str] = Field([], description="Ids of the jobs in flight on this worker.")
    models_loaded: list[str] = []
    rss_mb: float | None = None
    baseline_rss_mb: float | None = None
    gpu_memory_used_mb: float | None = None
    jobs_done: int = 0
    restarts: int = 0
    last_restart: Cause | None = None
    uptime_s: float = 0.0


HealthStatus = Literal["ok", "loading", "degraded", "draining", "failed"]


class HealthReport(WorkerMessage):
    """The answer to `health` and `trim`."""

    type: Literal["health"] = "health"
    request_id: RequestId | None = Field(None, description="As in the question.")
    status: HealthStatus
    detail: str | None = None
    gpu_available: bool | None = Field(None, description="Null until a worker has reported it.")
    gpu_name: str | None = None
    gpu_memory_free: float | None = Field(None, description="GB.")
    models_loaded: list[str] = []
    queue_size: int = Field(ge=0, description="Jobs accepted that have not started.")
    in_flight: int = Field(0, ge=0)
    uptime_s: float = Field(ge=0)
    dropped_progress: int = Field(
        0, ge=0, description="Progress messages that newer ones replaced."
    )
    workers: list[WorkerHealth] | None = None


AnyCommand = Cancel | Health | Trim | Replay | Shutdown
HostMessages = AnyJob | AnyCommand
WorkerMessages = Annotated[
    Status | Accepted | Progress | Result | Error | HealthReport, Field(discriminator="type")
]

# Any JSON object, before it is known to be a message.
JsonObject = dict[str, Any]


def constant(model: type[BaseModel], field: str) -> str:
    """The one value of a message's `type` or `method`."""
    value: str = get_args(model.model_fields[field].annotation)[0]
    return value


# The messages by the name that a line has for them.
JOBS: dict[str, type[AnyJob]] = {constant(job, "method"): job for job in get_args(AnyJob)}
COMMANDS: dict[str, type[AnyCommand]] = {
    constant(command, "type"): command for command in get_args(AnyCommand)
}
CONFIGS: dict[str, type[Config]] = {
    method: cast("type[Config]", job.model_fields["config"].annotation)
    for method, job in JOBS.items()
}
