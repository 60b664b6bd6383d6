# Generated from protocol/schema by adapters/generate. Do not edit.
# fmt: off
# ruff: noqa: E501
"""What a host and a daemon say to each other, version 1 of the protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NotRequired, TypedDict

PROTOCOL_VERSION = 1

# Every error code, and whether the same job may succeed later.
ERROR_CODES: dict[str, bool] = {
    "invalid_json": False,  # the line is not one JSON object in UTF-8
    "invalid_job": False,  # a field is missing, unknown or out of range; the sentence names it
    "unknown_method": False,  # the method or message type is not served here
    "line_too_long": False,  # the line passes the limit (32 MiB by default)
    "duplicate_job": False,  # the job_id is in flight; `refused_job_id` names it, and the first job continues
    "queue_full": True,  # the queue is at its limit; send the job again later
    "input_not_found": False,  # there is no input file at that path or URL
    "input_unreadable": False,  # the input is broken, truncated or of an unknown kind
    "input_too_large": False,  # the input passes a size limit
    "unsupported_format": False,  # the kind of the input cannot be read, or that of the output cannot be written
    "output_unwritable": False,  # the output cannot be written
    "path_not_allowed": False,  # a path lies outside the allowed roots, or a URL leads to a private network or to a host, bucket or folder that is not allowed
    "storage_unavailable": True,  # the object storage of a URL does not answer, or fails, also after several tries
    "model_not_found": False,  # there is no model of that name, and no such file
    "model_corrupt": False,  # the weights are truncated, altered or of an unknown architecture
    "model_unsafe": False,  # the weights would run code when they are loaded
    "out_of_memory": True,  # memory ran out even at the smallest tile size, or a growing worker was stopped
    "cancelled": False,  # the host cancelled the job
    "deadline_exceeded": False,  # the job's timeout_s passed
    "stalled": True,  # the job made no progress within its budget, and max_attempts allowed one start
    "worker_crashed": True,  # the job's worker crashed, and max_attempts allowed one start; or no worker can be started, which is not retryable if the workers' options are wrong
    "poisoned": False,  # the job's worker crashed on each attempt, or three daemons were killed while the job ran; `cause` says how
    "upstream_auth": False,  # the cloud service refused the credentials
    "upstream_quota": True,  # the cloud service's quota is used up
    "upstream_filtered": False,  # the cloud service's safety filter refused the picture
    "upstream_unavailable": True,  # the cloud service did not answer, or its answer was wrong
    "journal_unwritable": True,  # the journal cannot be written (a full disk), so the job was not accepted
    "shutting_down": True,  # the daemon is shutting down and takes no more jobs
    "internal": False,  # a defect in upscaled; the traceback shows its place
}

Crop = Literal["none", "center", "top", "bottom", "left", "right", "top-left", "top-right", "bottom-left", "bottom-right"]

ImagenFactor = Literal["x2", "x3", "x4"]

OutputFormat = Literal["png", "tiff", "jpeg", "webp", "avif"]

Precision = Literal["auto", "fp32", "fp16", "bf16"]


class EsrganConfig(TypedDict, total=False):
    """ESRGAN, and every other single-image network that spandrel supports."""

    # Input file.
    image_path: str
    # Input file's bytes.
    image_base64: str
    # Input over http or https, or of an object storage: s3://, gs://, az://.
    image_url: str
    # Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken.
    output_path: str
    # Return the output file's bytes in the result instead of writing a file.
    output_base64: bool
    # Write the output there: s3://, gs://, az://, or an https URL that takes a PUT (presigned).
    output_url: str
    # Default: by the suffix of output_path or output_url, else png.
    output_format: OutputFormat
    # Lossy formats; 100 makes WebP and AVIF lossless.
    quality: int
    # Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own.
    target_dpi: int
    # Print width.
    target_width_inches: float
    # Print height.
    target_height_inches: float
    # Output width in pixels.
    target_width: int
    # Output height in pixels.
    target_height: int
    # The part to keep if the print size has another aspect ratio.
    crop: Crop
    # Side of a tile, or height of a band, in input pixels. Default: by free memory.
    tile_size: int
    # Default: DEFAULT_UPSCALE_FACTOR or 4; 1 if `model` does not enlarge.
    upscale_factor: float
    # A catalogue name, the path of a weights file, or `auto`: the bundled model that suits the picture.
    model: str
    # The same, under the name that FLUX uses; `model` takes precedence.
    upscale_model: str
    # A model of scale 1, such as a denoiser, that the picture passes before the upscaling one.
    pre_model: str
    # False forces fp32, whatever `precision` says.
    use_fp16: bool
    # auto: the fastest one that is faithful on this device.
    precision: Precision
    # Restore the faces of the enlarged picture, as the method face does.
    faces: bool
    # The `model` of the method face.
    face_model: str
    # The `strength` of the method face.
    face_strength: float


class EsrganJob(TypedDict):
    """Upscale with an ESRGAN-family network."""

    type: NotRequired[Literal["job"]]
    job_id: NotRequired[str]
    # Higher first; equal ones in order.
    priority: NotRequired[int]
    # From acceptance to the terminal event; then deadline_exceeded.
    timeout_s: NotRequired[float]
    # Starts of a job that crashes its worker; then it ends as poisoned.
    max_attempts: NotRequired[int]
    method: Literal["esrgan"]
    config: EsrganConfig


class FaceConfig(TypedDict, total=False):
    """Restores the faces of a picture, and enlarges the picture if a size is asked for."""

    # Input file.
    image_path: str
    # Input file's bytes.
    image_base64: str
    # Input over http or https, or of an object storage: s3://, gs://, az://.
    image_url: str
    # Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken.
    output_path: str
    # Return the output file's bytes in the result instead of writing a file.
    output_base64: bool
    # Write the output there: s3://, gs://, az://, or an https URL that takes a PUT (presigned).
    output_url: str
    # Default: by the suffix of output_path or output_url, else png.
    output_format: OutputFormat
    # Lossy formats; 100 makes WebP and AVIF lossless.
    quality: int
    # Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own.
    target_dpi: int
    # Print width.
    target_width_inches: float
    # Print height.
    target_height_inches: float
    # Output width in pixels.
    target_width: int
    # Output height in pixels.
    target_height: int
    # The part to keep if the print size has another aspect ratio.
    crop: Crop
    # Side of a tile, or height of a band, in input pixels. Default: by free memory.
    tile_size: int
    # Default: 1; with upscale_model, DEFAULT_UPSCALE_FACTOR or 4.
    upscale_factor: float
    # GFPGANv1.4, GFPGANv1.3, RestoreFormer or CodeFormer, or the path of such a weights file.
    model: str
    # The ESRGAN model that enlarges the picture. Default: auto if the output is larger than the input.
    upscale_model: str
    # How much of a restored face is taken; 0 changes no pixel.
    strength: float
    # Restore the largest face alone.
    only_largest: bool
    # A face whose longer side has fewer pixels of the input is not restored.
    min_face_px: int
    # The largest faces are restored, at most so many.
    max_faces: int
    # The least score of a face: a lower value finds more faces, and more that are none.
    detector_threshold: float
    # auto: the fastest one that is faithful on this device.
    precision: Precision


class FaceJob(TypedDict):
    """Restore the faces of a picture."""

    type: NotRequired[Literal["job"]]
    job_id: NotRequired[str]
    # Higher first; equal ones in order.
    priority: NotRequired[int]
    # From acceptance to the terminal event; then deadline_exceeded.
    timeout_s: NotRequired[float]
    # Starts of a job that crashes its worker; then it ends as poisoned.
    max_attempts: NotRequired[int]
    method: Literal["face"]
    config: FaceConfig


class FakeConfig(TypedDict, total=False):
    """The fake engine, for people who write hosts: every way in which a worker can behave. Runs `steps` steps of `step_s` seconds. The other fields say what happens at step `at_step`."""

    steps: int
    step_s: float
    # Model load time.
    load_s: float
    # Named in the result; see load_s.
    model: str
    at_step: int
    # print() it to stdout.
    print_text: str
    # The same from C: puts() and write(1).
    c_print_text: str
    # The same from a child process.
    subprocess_text: str
    # Raise a RuntimeError with this text.
    raise_text: str
    # Fail with this code of the protocol.
    error_code: str
    # Exit the process at once.
    exit_code: int
    # Kill the process with a signal.
    signal: int
    # Make no more progress.
    hang: bool
    # The same in native code that holds the GIL.
    hang_native: bool
    ignore_cancel: bool
    # Start a process that outlives the job.
    spawn_sleeper: bool
    # Memory to allocate and never free.
    grow_mb: int
    # Fail as if memory had run out.
    out_of_memory: bool
    # Write `output_text` there.
    output_path: str
    output_text: str
    # Misbehave only on this attempt: 1 shows a recovery.
    only_on_attempt: int


class FakeJob(TypedDict):
    """Test a host: see `FakeConfig`."""

    type: NotRequired[Literal["job"]]
    job_id: NotRequired[str]
    # Higher first; equal ones in order.
    priority: NotRequired[int]
    # From acceptance to the terminal event; then deadline_exceeded.
    timeout_s: NotRequired[float]
    # Starts of a job that crashes its worker; then it ends as poisoned.
    max_attempts: NotRequired[int]
    method: Literal["fake"]
    config: NotRequired[FakeConfig]


class FluxConfig(TypedDict, total=False):
    """FLUX.1-dev: an ESRGAN upscale, then image-to-image in tiles."""

    # Input file.
    image_path: str
    # Input file's bytes.
    image_base64: str
    # Input over http or https, or of an object storage: s3://, gs://, az://.
    image_url: str
    # Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken.
    output_path: str
    # Return the output file's bytes in the result instead of writing a file.
    output_base64: bool
    # Write the output there: s3://, gs://, az://, or an https URL that takes a PUT (presigned).
    output_url: str
    # Default: by the suffix of output_path or output_url, else png.
    output_format: OutputFormat
    # Lossy formats; 100 makes WebP and AVIF lossless.
    quality: int
    # Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own.
    target_dpi: int
    # Print width.
    target_width_inches: float
    # Print height.
    target_height_inches: float
    # Output width in pixels.
    target_width: int
    # Output height in pixels.
    target_height: int
    # The part to keep if the print size has another aspect ratio.
    crop: Crop
    # Side of a tile in output pixels.
    tile_size: int
    # Default: DEFAULT_UPSCALE_FACTOR or 4.
    upscale_factor: float
    # Catalogue name or GGUF path.
    model: str
    # First-stage model, as the `model` of the method esrgan.
    upscale_model: str
    # A model of scale 1, such as a denoiser, that the picture passes before the upscaling one.
    pre_model: str
    # 0 keeps the first stage unchanged.
    denoise: float
    # Model calls that are made per tile.
    steps: int
    guidance: float
    prompt: str
    seed: int


class FluxJob(TypedDict):
    """Upscale with FLUX.1-dev."""

    type: NotRequired[Literal["job"]]
    job_id: NotRequired[str]
    # Higher first; equal ones in order.
    priority: NotRequired[int]
    # From acceptance to the terminal event; then deadline_exceeded.
    timeout_s: NotRequired[float]
    # Starts of a job that crashes its worker; then it ends as poisoned.
    max_attempts: NotRequired[int]
    method: Literal["flux"]
    config: FluxConfig


class ImagenConfig(TypedDict, total=False):
    """Imagen on Vertex AI."""

    # Input file.
    image_path: str
    # Input file's bytes.
    image_base64: str
    # Input over http or https, or of an object storage: s3://, gs://, az://.
    image_url: str
    # Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken.
    output_path: str
    # Return the output file's bytes in the result instead of writing a file.
    output_base64: bool
    # Write the output there: s3://, gs://, az://, or an https URL that takes a PUT (presigned).
    output_url: str
    # Default: by the suffix of output_path or output_url, else png.
    output_format: OutputFormat
    # Lossy formats; 100 makes WebP and AVIF lossless.
    quality: int
    # Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own.
    target_dpi: int
    # Print width.
    target_width_inches: float
    # Print height.
    target_height_inches: float
    # Output width in pixels.
    target_width: int
    # Output height in pixels.
    target_height: int
    # The part to keep if the print size has another aspect ratio.
    crop: Crop
    # Side of a tile, or height of a band, in input pixels. Default: by free memory.
    tile_size: int
    upscale_factor: ImagenFactor
    model: str
    # Cut a picture that is too large for one call into parts; each call is billed.
    tile: bool
    # Default: GCP_PROJECT_ID from the environment.
    gcp_project_id: str
    # Default: GCP_REGION or us-central1.
    gcp_region: str


class ImagenJob(TypedDict):
    """Upscale with Imagen on Vertex AI."""

    type: NotRequired[Literal["job"]]
    job_id: NotRequired[str]
    # Higher first; equal ones in order.
    priority: NotRequired[int]
    # From acceptance to the terminal event; then deadline_exceeded.
    timeout_s: NotRequired[float]
    # Starts of a job that crashes its worker; then it ends as poisoned.
    max_attempts: NotRequired[int]
    method: Literal["imagen"]
    config: ImagenConfig


class Options(TypedDict, total=False):
    """The fields of all configs, as keyword arguments. The daemon refuses a field that
    the method does not have."""

    # Default: by the suffix of output_path or output_url, else png.
    output_format: OutputFormat
    # Lossy formats; 100 makes WebP and AVIF lossless.
    quality: int
    # Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own.
    target_dpi: int
    # Print width.
    target_width_inches: float
    # Print height.
    target_height_inches: float
    # Output width in pixels.
    target_width: int
    # Output height in pixels.
    target_height: int
    # The part to keep if the print size has another aspect ratio.
    crop: Crop
    # Side of a tile, or height of a band, in input pixels. Default: by free memory.
    tile_size: int
    # Default: DEFAULT_UPSCALE_FACTOR or 4; 1 if `model` does not enlarge.
    upscale_factor: float | ImagenFactor
    # A catalogue name, the path of a weights file, or `auto`: the bundled model that suits the picture.
    model: str
    # esrgan, face and flux: The same, under the name that FLUX uses; `model` takes precedence.
    upscale_model: str
    # esrgan and flux: A model of scale 1, such as a denoiser, that the picture passes before the upscaling one.
    pre_model: str
    # esrgan: False forces fp32, whatever `precision` says.
    use_fp16: bool
    # esrgan and face: auto: the fastest one that is faithful on this device.
    precision: Precision
    # esrgan: Restore the faces of the enlarged picture, as the method face does.
    faces: bool
    # esrgan: The `model` of the method face.
    face_model: str
    # esrgan: The `strength` of the method face.
    face_strength: float
    # face: How much of a restored face is taken; 0 changes no pixel.
    strength: float
    # face: Restore the largest face alone.
    only_largest: bool
    # face: A face whose longer side has fewer pixels of the input is not restored.
    min_face_px: int
    # face: The largest faces are restored, at most so many.
    max_faces: int
    # face: The least score of a face: a lower value finds more faces, and more that are none.
    detector_threshold: float
    # flux: 0 keeps the first stage unchanged.
    denoise: float
    # flux: Model calls that are made per tile.
    steps: int
    # flux
    guidance: float
    # flux
    prompt: str
    # flux
    seed: int
    # imagen: Cut a picture that is too large for one call into parts; each call is billed.
    tile: bool
    # imagen: Default: GCP_PROJECT_ID from the environment.
    gcp_project_id: str
    # imagen: Default: GCP_REGION or us-central1.
    gcp_region: str


# The only message that may leave out its type.
Job = EsrganJob | FaceJob | FakeJob | FluxJob | ImagenJob


@dataclass(slots=True, kw_only=True)
class Accepted:
    """The job is accepted: exactly one `result` or `error` with its id follows."""

    job_id: str = ""
    # Jobs that start before this one.
    position: int = 0


@dataclass(slots=True, kw_only=True)
class Box:
    """A rectangle in pixels, which may reach beyond the picture."""

    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0


@dataclass(slots=True, kw_only=True)
class Cause:
    """Why a worker, or a job's supervisor, ended."""

    reason: str = ""
    exit_code: int | None = None
    # Such as SIGKILL.
    signal: str | None = None
    # One sentence.
    detail: str | None = None


@dataclass(slots=True, kw_only=True)
class CropInfo:
    """By how much the upscaled picture is larger than the print, in one direction."""

    direction: str = ""
    amount_px: int = 0
    # amount_px / DPI; null if the DPI is unknown.
    amount_inches: float | None = None


@dataclass(slots=True, kw_only=True)
class ErrorMessage:
    """Terminal for `job_id`, which is null if the line has no usable id or that of another job."""

    PARTS: ClassVar[dict[str, tuple[str, Any]]] = {"cause": ("one", Cause)}

    job_id: str | None = None
    # One sentence.
    error: str = ""
    code: str = ""
    retryable: bool = False
    # The id of a refused line that cannot be `job_id`, because a job of that id is in flight, or because no job may have it (it is empty, or a number or boolean as JSON, or the first 128 characters of a longer one).
    refused_job_id: str | None = None
    cause: Cause | None = None
    attempt: int | None = None
    # For `internal` only.
    traceback: str | None = None


@dataclass(slots=True, kw_only=True)
class Point:
    """A position in pixels: the upper left corner of the picture is 0, 0."""

    x: float = 0.0
    y: float = 0.0


@dataclass(slots=True, kw_only=True)
class Face:
    """A face that was found. Positions are in pixels of the input, after it was turned upright."""

    PARTS: ClassVar[dict[str, tuple[str, Any]]] = {"box": ("one", Box), "points": ("list", Point)}

    box: Box = field(default_factory=Box)
    # How sure the detector is.
    score: float = 0.0
    # The eyes, the nose, the corners of the mouth; of each pair first the one that is on the left if the face is upright.
    points: list[Point] = field(default_factory=list)
    restored: bool = False
    # Why it was not restored.
    why: str | None = None


@dataclass(slots=True, kw_only=True)
class WorkerHealth:
    """A supervisor's row for one worker."""

    PARTS: ClassVar[dict[str, tuple[str, Any]]] = {"last_restart": ("one", Cause)}

    worker: int = 0
    state: str = ""
    pid: int | None = None
    device: str | None = None
    # Ids of the jobs in flight on this worker.
    jobs: list[str] = field(default_factory=list)
    models_loaded: list[str] = field(default_factory=list)
    rss_mb: float | None = None
    baseline_rss_mb: float | None = None
    gpu_memory_used_mb: float | None = None
    jobs_done: int = 0
    restarts: int = 0
    last_restart: Cause | None = None
    uptime_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class HealthReport:
    """The answer to `health` and `trim`."""

    PARTS: ClassVar[dict[str, tuple[str, Any]]] = {"workers": ("list", WorkerHealth)}

    # As in the question.
    request_id: str | None = None
    status: str = ""
    detail: str | None = None
    # Null until a worker has reported it.
    gpu_available: bool | None = None
    gpu_name: str | None = None
    # GB.
    gpu_memory_free: float | None = None
    models_loaded: list[str] = field(default_factory=list)
    # Jobs accepted that have not started.
    queue_size: int = 0
    in_flight: int = 0
    uptime_s: float = 0.0
    # Progress messages that newer ones replaced.
    dropped_progress: int = 0
    workers: list[WorkerHealth] | None = None


@dataclass(slots=True, kw_only=True)
class LaneInfo:
    """A queue inside the worker. Jobs of different lanes never wait for each other."""

    methods: list[str] = field(default_factory=list)
    # Jobs the lane holds at once.
    slots: int = 0


@dataclass(slots=True, kw_only=True)
class Progress:
    """Never decreases. A slow reader gets only the newest progress of a job."""

    job_id: str = ""
    # Percent.
    progress: float = 0.0
    stage: str = ""
    # Steps or tiles done in this stage.
    done: int | None = None
    total: int | None = None
    eta_s: float | None = None
    attempt: int = 1
    # After so long without a message the job counts as stalled.
    budget_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Size:
    """Pixels."""

    width: int = 0
    height: int = 0


@dataclass(slots=True, kw_only=True)
class Timings:
    """Seconds of a job, by phase. Phases overlap, so their sum may exceed the whole."""

    queue: float = 0.0
    load: float = 0.0
    decode: float = 0.0
    inference: float = 0.0
    encode: float = 0.0


@dataclass(slots=True, kw_only=True)
class ResultMessage:
    """Terminal: the output is complete and in place."""

    PARTS: ClassVar[dict[str, tuple[str, Any]]] = {"input_size": ("one", Size), "output_size": ("one", Size), "crop_info": ("one", CropInfo), "timings": ("one", Timings), "faces": ("list", Face)}

    job_id: str = ""
    status: Literal["completed"] = "completed"
    output_path: str | None = None
    output_base64: str | None = None
    # Without its query.
    output_url: str | None = None
    # The size of an output at a URL.
    output_bytes: int | None = None
    input_size: Size = field(default_factory=Size)
    output_size: Size = field(default_factory=Size)
    scale_factor: float | None = None
    crop_info: CropInfo | None = None
    # Seconds from start to end, without the time in the queue.
    processing_time: float = 0.0
    timings: Timings = field(default_factory=Timings)
    model: str | None = None
    # Why `auto` chose the model.
    model_reason: str | None = None
    device: str | None = None
    precision: str | None = None
    # Cloud calls that were made; they may be billed.
    upstream_calls: int | None = None
    # The largest first. Null if the job was not to look for faces.
    faces: list[Face] | None = None
    attempt: int = 1
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Status:
    """The state of the daemon. `ready` is the handshake. Hosts may send jobs before it."""

    PARTS: ClassVar[dict[str, tuple[str, Any]]] = {"lanes": ("map", LaneInfo), "cause": ("one", Cause)}

    message: str = ""
    protocol: int | None = None
    version: str | None = None
    methods: list[str] | None = None
    # Methods that lack files or credentials, each with what to do.
    unavailable: dict[str, str] | None = None
    models: list[str] | None = None
    device: str | None = None
    lanes: dict[str, LaneInfo] | None = None
    pid: int | None = None
    # Number of the worker, from 0. Sent by supervisors only.
    worker: int | None = None
    cause: Cause | None = None
    detail: str | None = None
