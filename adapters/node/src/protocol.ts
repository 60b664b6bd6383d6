// Generated from protocol/schema by adapters/generate. Do not edit.

export const PROTOCOL_VERSION = 1;

/** Every error code, and whether the same job may succeed later. */
export const ERROR_CODES = {
  /** the line is not one JSON object in UTF-8 */
  invalid_json: { retryable: false },
  /** a field is missing, unknown or out of range; the sentence names it */
  invalid_job: { retryable: false },
  /** the method or message type is not served here */
  unknown_method: { retryable: false },
  /** the line passes the limit (32 MiB by default) */
  line_too_long: { retryable: false },
  /** the job_id is in flight; `refused_job_id` names it, and the first job continues */
  duplicate_job: { retryable: false },
  /** the queue is at its limit; send the job again later */
  queue_full: { retryable: true },
  /** there is no input file at that path or URL */
  input_not_found: { retryable: false },
  /** the input is broken, truncated or of an unknown kind */
  input_unreadable: { retryable: false },
  /** the input passes a size limit */
  input_too_large: { retryable: false },
  /** the kind of the input cannot be read, or that of the output cannot be written */
  unsupported_format: { retryable: false },
  /** the output cannot be written */
  output_unwritable: { retryable: false },
  /** a path lies outside the allowed roots, or a URL leads to a private network or to a host, bucket or folder that is not allowed */
  path_not_allowed: { retryable: false },
  /** the object storage of a URL does not answer, or fails, also after several tries */
  storage_unavailable: { retryable: true },
  /** there is no model of that name, and no such file */
  model_not_found: { retryable: false },
  /** the weights are truncated, altered or of an unknown architecture */
  model_corrupt: { retryable: false },
  /** the weights would run code when they are loaded */
  model_unsafe: { retryable: false },
  /** memory ran out even at the smallest tile size, or a growing worker was stopped */
  out_of_memory: { retryable: true },
  /** the host cancelled the job */
  cancelled: { retryable: false },
  /** the job's timeout_s passed */
  deadline_exceeded: { retryable: false },
  /** the job made no progress within its budget, and max_attempts allowed one start */
  stalled: { retryable: true },
  /** the job's worker crashed, and max_attempts allowed one start; or no worker can be started, which is not retryable if the workers' options are wrong */
  worker_crashed: { retryable: true },
  /** the job's worker crashed on each attempt, or three daemons were killed while the job ran; `cause` says how */
  poisoned: { retryable: false },
  /** the cloud service refused the credentials */
  upstream_auth: { retryable: false },
  /** the cloud service's quota is used up */
  upstream_quota: { retryable: true },
  /** the cloud service's safety filter refused the picture */
  upstream_filtered: { retryable: false },
  /** the cloud service did not answer, or its answer was wrong */
  upstream_unavailable: { retryable: true },
  /** the journal cannot be written (a full disk), so the job was not accepted */
  journal_unwritable: { retryable: true },
  /** the daemon is shutting down and takes no more jobs */
  shutting_down: { retryable: true },
  /** a defect in upscaled; the traceback shows its place */
  internal: { retryable: false },
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/** End a job with `cancelled`. May come before, during or after its job. */
export interface Cancel {
  type: "cancel";
  job_id: string;
}

export type Crop = "none" | "center" | "top" | "bottom" | "left" | "right" | "top-left" | "top-right" | "bottom-left" | "bottom-right";

/** ESRGAN, and every other single-image network that spandrel supports. */
export interface EsrganConfig {
  /** Input file. */
  image_path?: string;
  /** Input file's bytes. */
  image_base64?: string;
  /** Input over http or https, or of an object storage: s3://, gs://, az://. */
  image_url?: string;
  /** Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken. */
  output_path?: string;
  /** Return the output file's bytes in the result instead of writing a file. */
  output_base64?: boolean;
  /** Write the output there: s3://, gs://, az://, or an https URL that takes a PUT (presigned). */
  output_url?: string;
  /** Default: by the suffix of output_path or output_url, else png. */
  output_format?: OutputFormat;
  /** Lossy formats; 100 makes WebP and AVIF lossless. */
  quality?: number;
  /** Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own. */
  target_dpi?: number;
  /** Print width. */
  target_width_inches?: number;
  /** Print height. */
  target_height_inches?: number;
  /** Output width in pixels. */
  target_width?: number;
  /** Output height in pixels. */
  target_height?: number;
  /** The part to keep if the print size has another aspect ratio. */
  crop?: Crop;
  /** Side of a tile, or height of a band, in input pixels. Default: by free memory. */
  tile_size?: number;
  /** Default: DEFAULT_UPSCALE_FACTOR or 4; 1 if `model` does not enlarge. */
  upscale_factor?: number;
  /** A catalogue name, the path of a weights file, or `auto`: the bundled model that suits the picture. */
  model?: string;
  /** The same, under the name that FLUX uses; `model` takes precedence. */
  upscale_model?: string;
  /** A model of scale 1, such as a denoiser, that the picture passes before the upscaling one. */
  pre_model?: string;
  /** False forces fp32, whatever `precision` says. */
  use_fp16?: boolean;
  /** auto: the fastest one that is faithful on this device. */
  precision?: Precision;
  /** Restore the faces of the enlarged picture, as the method face does. */
  faces?: boolean;
  /** The `model` of the method face. */
  face_model?: string;
  /** The `strength` of the method face. */
  face_strength?: number;
}

/** Upscale with an ESRGAN-family network. */
export interface EsrganJob {
  type?: "job";
  job_id: string;
  /** Higher first; equal ones in order. */
  priority?: number;
  /** From acceptance to the terminal event; then deadline_exceeded. */
  timeout_s?: number;
  /** Starts of a job that crashes its worker; then it ends as poisoned. */
  max_attempts?: number;
  /** Set by a supervisor; hosts leave it out. */
  attempt?: number;
  /** Set by a supervisor: its name for this acceptance, in each run of the job. */
  accepted_as?: string;
  method: "esrgan";
  config: EsrganConfig;
}

/** Restores the faces of a picture, and enlarges the picture if a size is asked for. */
export interface FaceConfig {
  /** Input file. */
  image_path?: string;
  /** Input file's bytes. */
  image_base64?: string;
  /** Input over http or https, or of an object storage: s3://, gs://, az://. */
  image_url?: string;
  /** Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken. */
  output_path?: string;
  /** Return the output file's bytes in the result instead of writing a file. */
  output_base64?: boolean;
  /** Write the output there: s3://, gs://, az://, or an https URL that takes a PUT (presigned). */
  output_url?: string;
  /** Default: by the suffix of output_path or output_url, else png. */
  output_format?: OutputFormat;
  /** Lossy formats; 100 makes WebP and AVIF lossless. */
  quality?: number;
  /** Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own. */
  target_dpi?: number;
  /** Print width. */
  target_width_inches?: number;
  /** Print height. */
  target_height_inches?: number;
  /** Output width in pixels. */
  target_width?: number;
  /** Output height in pixels. */
  target_height?: number;
  /** The part to keep if the print size has another aspect ratio. */
  crop?: Crop;
  /** Side of a tile, or height of a band, in input pixels. Default: by free memory. */
  tile_size?: number;
  /** Default: 1; with upscale_model, DEFAULT_UPSCALE_FACTOR or 4. */
  upscale_factor?: number;
  /** GFPGANv1.4, GFPGANv1.3, RestoreFormer or CodeFormer, or the path of such a weights file. */
  model?: string;
  /** The ESRGAN model that enlarges the picture. Default: auto if the output is larger than the input. */
  upscale_model?: string;
  /** How much of a restored face is taken; 0 changes no pixel. */
  strength?: number;
  /** Restore the largest face alone. */
  only_largest?: boolean;
  /** A face whose longer side has fewer pixels of the input is not restored. */
  min_face_px?: number;
  /** The largest faces are restored, at most so many. */
  max_faces?: number;
  /** The least score of a face: a lower value finds more faces, and more that are none. */
  detector_threshold?: number;
  /** auto: the fastest one that is faithful on this device. */
  precision?: Precision;
}

/** Restore the faces of a picture. */
export interface FaceJob {
  type?: "job";
  job_id: string;
  /** Higher first; equal ones in order. */
  priority?: number;
  /** From acceptance to the terminal event; then deadline_exceeded. */
  timeout_s?: number;
  /** Starts of a job that crashes its worker; then it ends as poisoned. */
  max_attempts?: number;
  /** Set by a supervisor; hosts leave it out. */
  attempt?: number;
  /** Set by a supervisor: its name for this acceptance, in each run of the job. */
  accepted_as?: string;
  method: "face";
  config: FaceConfig;
}

/** The fake engine, for people who write hosts: every way in which a worker can behave. Runs `steps` steps of `step_s` seconds. The other fields say what happens at step `at_step`. */
export interface FakeConfig {
  steps?: number;
  step_s?: number;
  /** Model load time. */
  load_s?: number;
  /** Named in the result; see load_s. */
  model?: string;
  at_step?: number;
  /** print() it to stdout. */
  print_text?: string;
  /** The same from C: puts() and write(1). */
  c_print_text?: string;
  /** The same from a child process. */
  subprocess_text?: string;
  /** Raise a RuntimeError with this text. */
  raise_text?: string;
  /** Fail with this code of the protocol. */
  error_code?: ErrorCode;
  /** Exit the process at once. */
  exit_code?: number;
  /** Kill the process with a signal. */
  signal?: number;
  /** Make no more progress. */
  hang?: boolean;
  /** The same in native code that holds the GIL. */
  hang_native?: boolean;
  ignore_cancel?: boolean;
  /** Start a process that outlives the job. */
  spawn_sleeper?: boolean;
  /** Memory to allocate and never free. */
  grow_mb?: number;
  /** Fail as if memory had run out. */
  out_of_memory?: boolean;
  /** Write `output_text` there. */
  output_path?: string;
  output_text?: string;
  /** Misbehave only on this attempt: 1 shows a recovery. */
  only_on_attempt?: number;
}

/** Test a host: see `FakeConfig`. */
export interface FakeJob {
  type?: "job";
  job_id: string;
  /** Higher first; equal ones in order. */
  priority?: number;
  /** From acceptance to the terminal event; then deadline_exceeded. */
  timeout_s?: number;
  /** Starts of a job that crashes its worker; then it ends as poisoned. */
  max_attempts?: number;
  /** Set by a supervisor; hosts leave it out. */
  attempt?: number;
  /** Set by a supervisor: its name for this acceptance, in each run of the job. */
  accepted_as?: string;
  method: "fake";
  config?: FakeConfig;
}

/** FLUX.1-dev: an ESRGAN upscale, then image-to-image in tiles. */
export interface FluxConfig {
  /** Input file. */
  image_path?: string;
  /** Input file's bytes. */
  image_base64?: string;
  /** Input over http or https, or of an object storage: s3://, gs://, az://. */
  image_url?: string;
  /** Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken. */
  output_path?: string;
  /** Return the output file's bytes in the result instead of writing a file. */
  output_base64?: boolean;
  /** Write the output there: s3://, gs://, az://, or an https URL that takes a PUT (presigned). */
  output_url?: string;
  /** Default: by the suffix of output_path or output_url, else png. */
  output_format?: OutputFormat;
  /** Lossy formats; 100 makes WebP and AVIF lossless. */
  quality?: number;
  /** Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own. */
  target_dpi?: number;
  /** Print width. */
  target_width_inches?: number;
  /** Print height. */
  target_height_inches?: number;
  /** Output width in pixels. */
  target_width?: number;
  /** Output height in pixels. */
  target_height?: number;
  /** The part to keep if the print size has another aspect ratio. */
  crop?: Crop;
  /** Side of a tile in output pixels. */
  tile_size?: number;
  /** Default: DEFAULT_UPSCALE_FACTOR or 4. */
  upscale_factor?: number;
  /** Catalogue name or GGUF path. */
  model?: string;
  /** First-stage model, as the `model` of the method esrgan. */
  upscale_model?: string;
  /** A model of scale 1, such as a denoiser, that the picture passes before the upscaling one. */
  pre_model?: string;
  /** 0 keeps the first stage unchanged. */
  denoise?: number;
  /** Model calls that are made per tile. */
  steps?: number;
  guidance?: number;
  prompt?: string;
  seed?: number;
}

/** Upscale with FLUX.1-dev. */
export interface FluxJob {
  type?: "job";
  job_id: string;
  /** Higher first; equal ones in order. */
  priority?: number;
  /** From acceptance to the terminal event; then deadline_exceeded. */
  timeout_s?: number;
  /** Starts of a job that crashes its worker; then it ends as poisoned. */
  max_attempts?: number;
  /** Set by a supervisor; hosts leave it out. */
  attempt?: number;
  /** Set by a supervisor: its name for this acceptance, in each run of the job. */
  accepted_as?: string;
  method: "flux";
  config: FluxConfig;
}

/** Ask for a `health` message. */
export interface Health {
  type: "health";
  /** Repeated in the answer. */
  request_id?: string;
}

/** Imagen on Vertex AI. */
export interface ImagenConfig {
  /** Input file. */
  image_path?: string;
  /** Input file's bytes. */
  image_base64?: string;
  /** Input over http or https, or of an object storage: s3://, gs://, az://. */
  image_url?: string;
  /** Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken. */
  output_path?: string;
  /** Return the output file's bytes in the result instead of writing a file. */
  output_base64?: boolean;
  /** Write the output there: s3://, gs://, az://, or an https URL that takes a PUT (presigned). */
  output_url?: string;
  /** Default: by the suffix of output_path or output_url, else png. */
  output_format?: OutputFormat;
  /** Lossy formats; 100 makes WebP and AVIF lossless. */
  quality?: number;
  /** Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own. */
  target_dpi?: number;
  /** Print width. */
  target_width_inches?: number;
  /** Print height. */
  target_height_inches?: number;
  /** Output width in pixels. */
  target_width?: number;
  /** Output height in pixels. */
  target_height?: number;
  /** The part to keep if the print size has another aspect ratio. */
  crop?: Crop;
  /** Side of a tile, or height of a band, in input pixels. Default: by free memory. */
  tile_size?: number;
  upscale_factor?: ImagenFactor;
  model?: string;
  /** Cut a picture that is too large for one call into parts; each call is billed. */
  tile?: boolean;
  /** Default: GCP_PROJECT_ID from the environment. */
  gcp_project_id?: string;
  /** Default: GCP_REGION or us-central1. */
  gcp_region?: string;
}

export type ImagenFactor = "x2" | "x3" | "x4";

/** Upscale with Imagen on Vertex AI. */
export interface ImagenJob {
  type?: "job";
  job_id: string;
  /** Higher first; equal ones in order. */
  priority?: number;
  /** From acceptance to the terminal event; then deadline_exceeded. */
  timeout_s?: number;
  /** Starts of a job that crashes its worker; then it ends as poisoned. */
  max_attempts?: number;
  /** Set by a supervisor; hosts leave it out. */
  attempt?: number;
  /** Set by a supervisor: its name for this acceptance, in each run of the job. */
  accepted_as?: string;
  method: "imagen";
  config: ImagenConfig;
}

/** The only message that may leave out its type. */
export type Job = EsrganJob | FluxJob | ImagenJob | FaceJob | FakeJob;

export type OutputFormat = "png" | "tiff" | "jpeg" | "webp" | "avif";

export type Precision = "auto" | "fp32" | "fp16" | "bf16";

/** Ask a supervisor with a journal to send the terminal events of these jobs again. Without ids: of every finished job that the journal still holds. Unknown ids are ignored. */
export interface Replay {
  type: "replay";
  job_ids?: string[];
}

/** Accept no more jobs, finish the accepted ones, and exit. The end of input means the same. */
export interface Shutdown {
  type: "shutdown";
}

/** Free caches and unload idle models. Answered by a `health` message when that is done. */
export interface Trim {
  type: "trim";
  /** Repeated in the answer. */
  request_id?: string;
}

/** What a host sends. */
export type HostMessage =
  | Job
  | Cancel
  | Health
  | Trim
  | Replay
  | Shutdown;

/** The job is accepted: exactly one `result` or `error` with its id follows. */
export interface Accepted {
  type: "accepted";
  job_id: string;
  /** Jobs that start before this one. */
  position: number;
}

/** A rectangle in pixels, which may reach beyond the picture. */
export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** Why a worker, or a job's supervisor, ended. */
export interface Cause {
  reason: RestartReason;
  exit_code?: number;
  /** Such as SIGKILL. */
  signal?: string;
  /** One sentence. */
  detail?: string;
}

export type CropDirection = "vertical" | "horizontal" | (string & {});

/** By how much the upscaled picture is larger than the print, in one direction. */
export interface CropInfo {
  direction: CropDirection;
  amount_px: number;
  /** amount_px / DPI; null if the DPI is unknown. */
  amount_inches?: number;
}

/** Terminal for `job_id`, which is null if the line has no usable id or that of another job. */
export interface ErrorMessage {
  type: "error";
  job_id: string;
  /** One sentence. */
  error: string;
  code: ErrorCode;
  retryable: boolean;
  /** The id of a refused line that cannot be `job_id`, because a job of that id is in flight, or because no job may have it (it is empty, or a number or boolean as JSON, or the first 128 characters of a longer one). */
  refused_job_id?: string;
  cause?: Cause;
  attempt?: number;
  /** For `internal` only. */
  traceback?: string;
}

/** A face that was found. Positions are in pixels of the input, after it was turned upright. */
export interface Face {
  box: Box;
  /** How sure the detector is. */
  score: number;
  /** The eyes, the nose, the corners of the mouth; of each pair first the one that is on the left if the face is upright. */
  points: Point[];
  restored: boolean;
  /** Why it was not restored. */
  why?: string;
}

/** The answer to `health` and `trim`. */
export interface HealthReport {
  type: "health";
  /** As in the question. */
  request_id?: string;
  status: HealthStatus;
  detail?: string;
  /** Null until a worker has reported it. */
  gpu_available?: boolean;
  gpu_name?: string;
  /** GB. */
  gpu_memory_free?: number;
  models_loaded?: string[];
  /** Jobs accepted that have not started. */
  queue_size: number;
  in_flight?: number;
  uptime_s: number;
  /** Progress messages that newer ones replaced. */
  dropped_progress?: number;
  workers?: WorkerHealth[];
}

export type HealthStatus = "ok" | "loading" | "degraded" | "draining" | "failed" | (string & {});

/** A queue inside the worker. Jobs of different lanes never wait for each other. */
export interface LaneInfo {
  methods: string[];
  /** Jobs the lane holds at once. */
  slots: number;
}

/** A position in pixels: the upper left corner of the picture is 0, 0. */
export interface Point {
  x: number;
  y: number;
}

/** Never decreases. A slow reader gets only the newest progress of a job. */
export interface Progress {
  type: "progress";
  job_id: string;
  /** Percent. */
  progress: number;
  stage: string;
  /** Steps or tiles done in this stage. */
  done?: number;
  total?: number;
  eta_s?: number;
  attempt?: number;
  /** After so long without a message the job counts as stalled. */
  budget_s?: number;
}

export type RestartReason = "exit" | "signal" | "oom_kill" | "stall" | "deadline" | "cancel" | "memory" | "age" | "job_count" | "reload" | "load_failed" | "protocol_violation" | "supervisor_killed" | (string & {});

/** Terminal: the output is complete and in place. */
export interface Result {
  type: "result";
  job_id: string;
  status?: "completed";
  output_path?: string;
  output_base64?: string;
  /** Without its query. */
  output_url?: string;
  /** The size of an output at a URL. */
  output_bytes?: number;
  input_size?: Size;
  output_size?: Size;
  scale_factor?: number;
  crop_info?: CropInfo;
  /** Seconds from start to end, without the time in the queue. */
  processing_time: number;
  timings: Timings;
  model?: string;
  /** Why `auto` chose the model. */
  model_reason?: string;
  device?: string;
  precision?: string;
  /** Cloud calls that were made; they may be billed. */
  upstream_calls?: number;
  /** The largest first. Null if the job was not to look for faces. */
  faces?: Face[];
  attempt?: number;
  warnings?: string[];
}

/** Pixels. */
export interface Size {
  width: number;
  height: number;
}

/** The state of the daemon. `ready` is the handshake. Hosts may send jobs before it. */
export interface Status {
  type: "status";
  message: StatusMessage;
  protocol?: number;
  version?: string;
  methods?: string[];
  /** Methods that lack files or credentials, each with what to do. */
  unavailable?: Record<string, string>;
  models?: string[];
  device?: string;
  lanes?: Record<string, LaneInfo>;
  pid?: number;
  /** Number of the worker, from 0. Sent by supervisors only. */
  worker?: number;
  cause?: Cause;
  detail?: string;
}

export type StatusMessage = "loading_models" | "ready" | "draining" | "degraded" | "worker_restarted" | "stopped" | (string & {});

/** Seconds of a job, by phase. Phases overlap, so their sum may exceed the whole. */
export interface Timings {
  queue?: number;
  load?: number;
  decode?: number;
  inference?: number;
  encode?: number;
}

/** A supervisor's row for one worker. */
export interface WorkerHealth {
  worker: number;
  state: WorkerState;
  pid?: number;
  device?: string;
  /** Ids of the jobs in flight on this worker. */
  jobs?: string[];
  models_loaded?: string[];
  rss_mb?: number;
  baseline_rss_mb?: number;
  gpu_memory_used_mb?: number;
  jobs_done?: number;
  restarts?: number;
  last_restart?: Cause;
  uptime_s?: number;
}

export type WorkerState = "starting" | "ready" | "busy" | "unresponsive" | "draining" | "backoff" | "stopped" | (string & {});

/** What a worker sends. */
export type WorkerMessage =
  | Status
  | Accepted
  | Progress
  | Result
  | ErrorMessage
  | HealthReport;
