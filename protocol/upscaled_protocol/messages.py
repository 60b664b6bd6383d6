"""Every message of the protocol, as tagged unions.

Host to worker: `Job` (also without a `type`), `Cancel`, `Health`, `Trim`, `Replay`, `Shutdown`.
Worker to host: `Status`, `Accepted`, `Progress`, `Result`, `Error`, `HealthReport`.
`protocol/README.md` is the normative text; `protocol/schema` is generated from this module.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator

from upscaled_protocol.configs import Config, EsrganConfig, FakeConfig, FluxConfig, ImagenConfig
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

JobId = Annotated[str, Field(min_length=1, max_length=MAX_JOB_ID_LENGTH)]


def _take_any_text(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    is_short = isinstance(value, str) and 1 <= len(value) <= MAX_JOB_ID_LENGTH
    return value if is_short else handler(value)


# A refused line's own id, half a surrogate pair included: the host knows its job by that.
RefusedId = Annotated[JobId, WrapValidator(_take_any_text)]
RequestId = Annotated[str, Field(min_length=1, max_length=MAX_REQUEST_ID_LENGTH)]


class HostMessage(BaseModel):
    """From the host. Unknown fields are kept aside, so that a warning can name them."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class WorkerMessage(BaseModel):
    """From the worker. Hosts ignore the fields and the types they do not know."""

    # JSON has no NaN: one that got this far would reach the host as null.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- host to worker -------------------------------------------------------------------------


class BaseJob(HostMessage):
    """What all jobs have in common; `config` depends on `method`."""

    type: Literal["job"] = "job"
    job_id: JobId
    priority: int = Field(
        0, ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="Higher first; equals in order."
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
        description="Starts allowed before a job that takes its worker down is poisoned.",
    )
    attempt: int = Field(1, ge=1, description="Set by a supervisor; hosts leave it out.")
    accepted_as: str | None = Field(
        None,
        max_length=MAX_ACCEPTED_AS_LENGTH,
        description="Set by a supervisor: what it calls this acceptance, in each run of the job.",
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


class FakeJob(BaseJob):
    """Exercise a host: see `FakeConfig`."""

    method: Literal["fake"]
    config: FakeConfig = FakeConfig()


AnyJob = EsrganJob | FluxJob | ImagenJob | FakeJob
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
    """Free caches and unload idle models; answered by a `health` message when done."""

    type: Literal["trim"]
    request_id: RequestId | None = Field(None, description="Repeated in the answer.")


class Replay(HostMessage):
    """Ask a journalling supervisor to send again the terminal events of these jobs.

    Without ids: of every finished job it still holds. A job it does not know is passed over.
    """

    type: Literal["replay"]
    job_ids: list[JobId] | None = Field(None, fail_fast=True)


class Shutdown(HostMessage):
    """Take no more jobs, finish those accepted, and exit. End of input means the same."""

    type: Literal["shutdown"]


# --- worker to host -------------------------------------------------------------------------


class Size(WorkerMessage):
    """Pixels."""

    width: int = Field(ge=1)
    height: int = Field(ge=1)


CropDirection = Literal["vertical", "horizontal"]


class CropInfo(WorkerMessage):
    """How far the upscaled picture passes the print size, in one direction."""

    direction: CropDirection
    amount_px: int = Field(ge=0)
    amount_inches: float | None = Field(
        None, ge=0, description="amount_px / DPI; null where no DPI is known."
    )


class LaneInfo(WorkerMessage):
    """A queue of its own inside the worker: jobs of different lanes never wait for each other."""

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
    """Why a worker went away, or a job's supervisor."""

    reason: RestartReason
    exit_code: int | None = None
    signal: str | None = Field(None, description="As in SIGKILL.")
    detail: str | None = Field(None, description="One sentence.")


StatusMessage = Literal[
    "loading_models", "ready", "draining", "degraded", "worker_restarted", "stopped"
]


class Status(WorkerMessage):
    """The daemon's own state. `ready` is the handshake: hosts wait for it or write at once."""

    type: Literal["status"] = "status"
    message: StatusMessage
    protocol: int | None = None
    version: str | None = None
    methods: list[str] | None = None
    unavailable: dict[str, str] | None = Field(
        None, description="Methods that lack files or credentials, each with what to do about it."
    )
    models: list[str] | None = None
    device: str | None = None
    lanes: dict[str, LaneInfo] | None = None
    pid: int | None = None
    worker: int | None = Field(None, description="Which worker, from 0; supervised only.")
    cause: Cause | None = None
    detail: str | None = None


class Accepted(WorkerMessage):
    """The job is taken: exactly one `result` or `error` with its id will follow."""

    type: Literal["accepted"] = "accepted"
    job_id: JobId
    position: int = Field(ge=0, description="Jobs that start before this one.")


class Progress(WorkerMessage):
    """Never falling. Coalesced for a slow reader: only the newest of a job is kept."""

    type: Literal["progress"] = "progress"
    job_id: JobId
    progress: float = Field(ge=0, le=100, description="Percent.")
    stage: str
    done: int | None = Field(None, ge=0, description="Steps or tiles done in this stage.")
    total: int | None = Field(None, ge=0)
    eta_s: float | None = Field(None, ge=0)
    attempt: int = Field(1, ge=1)
    budget_s: float | None = Field(
        None, gt=0, description="Silence allowed after this message before it counts as a stall."
    )


class Timings(WorkerMessage):
    """Seconds of a job, by phase. Phases overlap, so they may add up to more than the whole."""

    queue: float = Field(0.0, ge=0)
    load: float = Field(0.0, ge=0)
    decode: float = Field(0.0, ge=0)
    inference: float = Field(0.0, ge=0)
    encode: float = Field(0.0, ge=0)


class Result(WorkerMessage):
    """Terminal: the output is whole and in place."""

    type: Literal["result"] = "result"
    job_id: JobId
    status: Literal["completed"] = "completed"
    output_path: str | None = None
    output_base64: str | None = None
    input_size: Size | None = None
    output_size: Size | None = None
    scale_factor: float | None = None
    crop_info: CropInfo | None = None
    processing_time: float = Field(ge=0, description="Seconds from start to end, queue left out.")
    timings: Timings
    model: str | None = None
    device: str | None = None
    precision: str | None = None
    upstream_calls: int | None = Field(None, ge=0, description="Cloud calls made; may be billed.")
    attempt: int = Field(1, ge=1)
    warnings: list[str] = []


class Error(WorkerMessage):
    """Terminal for `job_id`; null where the line had no usable id, or the id is another job's."""

    type: Literal["error"] = "error"
    job_id: RefusedId | None
    error: str = Field(description="One plain sentence.")
    code: ErrorCode
    retryable: bool
    refused_job_id: str | None = Field(
        None,
        description="The id of a refused line that cannot be `job_id`: another job of that id is "
        "in flight, or no job may have it (empty; the first 128 characters of a longer one; a "
        "number or a boolean as JSON).",
    )
    cause: Cause | None = None
    attempt: int | None = Field(None, ge=1)
    traceback: str | None = Field(None, description="Internal errors only.")


# "unresponsive": it does not answer `health`, though its process lives.
WorkerState = Literal["starting", "ready", "busy", "unresponsive", "draining", "backoff", "stopped"]


class WorkerHealth(WorkerMessage):
    """A supervisor's row for one worker."""

    worker: int
    state: WorkerState
    pid: int | None = None
    device: str | None = None
    jobs: list[str] = Field([], description="Ids in flight on this worker.")
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
    gpu_available: bool | None = Field(None, description="Null until a worker has told.")
    gpu_name: str | None = None
    gpu_memory_free: float | None = Field(None, description="GB.")
    models_loaded: list[str] = []
    queue_size: int = Field(ge=0, description="Jobs accepted that have not started.")
    in_flight: int = Field(0, ge=0)
    uptime_s: float = Field(ge=0)
    dropped_progress: int = Field(0, ge=0, description="Progress messages coalesced away.")
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
