// Code generated from protocol/schema by adapters/generate. DO NOT EDIT.

package upscaled

// ProtocolVersion is the version of the protocol that these types describe.
const ProtocolVersion = 1

// The codes that a job may end with. Each is an error for errors.Is.
const (
	// CodeInvalidJSON: the line is not one JSON object in UTF-8.
	CodeInvalidJSON Code = "invalid_json"
	// CodeInvalidJob: a field is missing, unknown or out of range; the sentence names it.
	CodeInvalidJob Code = "invalid_job"
	// CodeUnknownMethod: the method or message type is not served here.
	CodeUnknownMethod Code = "unknown_method"
	// CodeLineTooLong: the line passes the limit (32 MiB by default).
	CodeLineTooLong Code = "line_too_long"
	// CodeDuplicateJob: the job_id is in flight; `refused_job_id` names it, and the first job continues.
	CodeDuplicateJob Code = "duplicate_job"
	// CodeQueueFull: the queue is at its limit; send the job again later.
	CodeQueueFull Code = "queue_full"
	// CodeInputNotFound: there is no input file at that path or URL.
	CodeInputNotFound Code = "input_not_found"
	// CodeInputUnreadable: the input is broken, truncated or of an unknown kind.
	CodeInputUnreadable Code = "input_unreadable"
	// CodeInputTooLarge: the input passes a size limit.
	CodeInputTooLarge Code = "input_too_large"
	// CodeUnsupportedFormat: the kind of the input cannot be read, or that of the output cannot be written.
	CodeUnsupportedFormat Code = "unsupported_format"
	// CodeOutputUnwritable: the output cannot be written.
	CodeOutputUnwritable Code = "output_unwritable"
	// CodePathNotAllowed: a path lies outside the allowed roots, or a URL leads to a private network or to a host, bucket or folder that is not allowed.
	CodePathNotAllowed Code = "path_not_allowed"
	// CodeStorageUnavailable: the object storage of a URL does not answer, or fails, also after several tries.
	CodeStorageUnavailable Code = "storage_unavailable"
	// CodeModelNotFound: there is no model of that name, and no such file.
	CodeModelNotFound Code = "model_not_found"
	// CodeModelCorrupt: the weights are truncated, altered or of an unknown architecture.
	CodeModelCorrupt Code = "model_corrupt"
	// CodeModelUnsafe: the weights would run code when they are loaded.
	CodeModelUnsafe Code = "model_unsafe"
	// CodeOutOfMemory: memory ran out even at the smallest tile size, or a growing worker was stopped.
	CodeOutOfMemory Code = "out_of_memory"
	// CodeCancelled: the host cancelled the job.
	CodeCancelled Code = "cancelled"
	// CodeDeadlineExceeded: the job's timeout_s passed.
	CodeDeadlineExceeded Code = "deadline_exceeded"
	// CodeStalled: the job made no progress within its budget, and max_attempts allowed one start.
	CodeStalled Code = "stalled"
	// CodeWorkerCrashed: the job's worker crashed, and max_attempts allowed one start; or no worker can be started, which is not retryable if the workers' options are wrong.
	CodeWorkerCrashed Code = "worker_crashed"
	// CodePoisoned: the job's worker crashed on each attempt, or three daemons were killed while the job ran; `cause` says how.
	CodePoisoned Code = "poisoned"
	// CodeUpstreamAuth: the cloud service refused the credentials.
	CodeUpstreamAuth Code = "upstream_auth"
	// CodeUpstreamQuota: the cloud service's quota is used up.
	CodeUpstreamQuota Code = "upstream_quota"
	// CodeUpstreamFiltered: the cloud service's safety filter refused the picture.
	CodeUpstreamFiltered Code = "upstream_filtered"
	// CodeUpstreamUnavailable: the cloud service did not answer, or its answer was wrong.
	CodeUpstreamUnavailable Code = "upstream_unavailable"
	// CodeJournalUnwritable: the journal cannot be written (a full disk), so the job was not accepted.
	CodeJournalUnwritable Code = "journal_unwritable"
	// CodeShuttingDown: the daemon is shutting down and takes no more jobs.
	CodeShuttingDown Code = "shutting_down"
	// CodeInternal: a defect in upscaled; the traceback shows its place.
	CodeInternal Code = "internal"
)

// Codes has every code, and whether the same job may succeed later.
var Codes = map[Code]bool{
	CodeInvalidJSON:         false,
	CodeInvalidJob:          false,
	CodeUnknownMethod:       false,
	CodeLineTooLong:         false,
	CodeDuplicateJob:        false,
	CodeQueueFull:           true,
	CodeInputNotFound:       false,
	CodeInputUnreadable:     false,
	CodeInputTooLarge:       false,
	CodeUnsupportedFormat:   false,
	CodeOutputUnwritable:    false,
	CodePathNotAllowed:      false,
	CodeStorageUnavailable:  true,
	CodeModelNotFound:       false,
	CodeModelCorrupt:        false,
	CodeModelUnsafe:         false,
	CodeOutOfMemory:         true,
	CodeCancelled:           false,
	CodeDeadlineExceeded:    false,
	CodeStalled:             true,
	CodeWorkerCrashed:       true,
	CodePoisoned:            false,
	CodeUpstreamAuth:        false,
	CodeUpstreamQuota:       true,
	CodeUpstreamFiltered:    false,
	CodeUpstreamUnavailable: true,
	CodeJournalUnwritable:   true,
	CodeShuttingDown:        true,
	CodeInternal:            false,
}

// Method is the method that the config is for.
func (EsrganConfig) Method() string { return "esrgan" }

// Method is the method that the config is for.
func (FluxConfig) Method() string { return "flux" }

// Method is the method that the config is for.
func (ImagenConfig) Method() string { return "imagen" }

// Method is the method that the config is for.
func (FaceConfig) Method() string { return "face" }

// Method is the method that the config is for.
func (FakeConfig) Method() string { return "fake" }

// Cancel: End a job with `cancelled`. May come before, during or after its job.
type Cancel struct {
	Type  string `json:"type"`
	JobID string `json:"job_id"`
}

// EsrganConfig: ESRGAN, and every other single-image network that spandrel supports.
type EsrganConfig struct {
	// Input file.
	ImagePath string `json:"image_path,omitempty"`
	// Input file's bytes.
	ImageBase64 string `json:"image_base64,omitempty"`
	// Input over http or https, or of an object storage: s3://, gs://, az://.
	ImageURL string `json:"image_url,omitempty"`
	// Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken.
	OutputPath string `json:"output_path,omitempty"`
	// Return the output file's bytes in the result instead of writing a file.
	OutputBase64 bool `json:"output_base64,omitempty"`
	// Write the output there: s3://, gs://, az://, or an https URL that takes a PUT (presigned).
	OutputURL string `json:"output_url,omitempty"`
	// Default: by the suffix of output_path or output_url, else png.
	OutputFormat string `json:"output_format,omitempty"`
	// Lossy formats; 100 makes WebP and AVIF lossless.
	Quality int `json:"quality,omitempty"`
	// Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own.
	TargetDPI int `json:"target_dpi,omitempty"`
	// Print width.
	TargetWidthInches float64 `json:"target_width_inches,omitempty"`
	// Print height.
	TargetHeightInches float64 `json:"target_height_inches,omitempty"`
	// Output width in pixels.
	TargetWidth int `json:"target_width,omitempty"`
	// Output height in pixels.
	TargetHeight int `json:"target_height,omitempty"`
	// The part to keep if the print size has another aspect ratio.
	Crop string `json:"crop,omitempty"`
	// Side of a tile, or height of a band, in input pixels. Default: by free memory.
	TileSize int `json:"tile_size,omitempty"`
	// Default: DEFAULT_UPSCALE_FACTOR or 4; 1 if `model` does not enlarge.
	UpscaleFactor float64 `json:"upscale_factor,omitempty"`
	// A catalogue name, the path of a weights file, or `auto`: the bundled model that suits the picture.
	Model string `json:"model,omitempty"`
	// The same, under the name that FLUX uses; `model` takes precedence.
	UpscaleModel string `json:"upscale_model,omitempty"`
	// A model of scale 1, such as a denoiser, that the picture passes before the upscaling one.
	PreModel string `json:"pre_model,omitempty"`
	// False forces fp32, whatever `precision` says.
	UseFP16 *bool `json:"use_fp16,omitempty"`
	// auto: the fastest one that is faithful on this device.
	Precision string `json:"precision,omitempty"`
	// Restore the faces of the enlarged picture, as the method face does.
	Faces bool `json:"faces,omitempty"`
	// The `model` of the method face.
	FaceModel string `json:"face_model,omitempty"`
	// The `strength` of the method face.
	FaceStrength *float64 `json:"face_strength,omitempty"`
}

// FaceConfig: Restores the faces of a picture, and enlarges the picture if a size is asked for.
type FaceConfig struct {
	// Input file.
	ImagePath string `json:"image_path,omitempty"`
	// Input file's bytes.
	ImageBase64 string `json:"image_base64,omitempty"`
	// Input over http or https, or of an object storage: s3://, gs://, az://.
	ImageURL string `json:"image_url,omitempty"`
	// Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken.
	OutputPath string `json:"output_path,omitempty"`
	// Return the output file's bytes in the result instead of writing a file.
	OutputBase64 bool `json:"output_base64,omitempty"`
	// Write the output there: s3://, gs://, az://, or an https URL that takes a PUT (presigned).
	OutputURL string `json:"output_url,omitempty"`
	// Default: by the suffix of output_path or output_url, else png.
	OutputFormat string `json:"output_format,omitempty"`
	// Lossy formats; 100 makes WebP and AVIF lossless.
	Quality int `json:"quality,omitempty"`
	// Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own.
	TargetDPI int `json:"target_dpi,omitempty"`
	// Print width.
	TargetWidthInches float64 `json:"target_width_inches,omitempty"`
	// Print height.
	TargetHeightInches float64 `json:"target_height_inches,omitempty"`
	// Output width in pixels.
	TargetWidth int `json:"target_width,omitempty"`
	// Output height in pixels.
	TargetHeight int `json:"target_height,omitempty"`
	// The part to keep if the print size has another aspect ratio.
	Crop string `json:"crop,omitempty"`
	// Side of a tile, or height of a band, in input pixels. Default: by free memory.
	TileSize int `json:"tile_size,omitempty"`
	// Default: 1; with upscale_model, DEFAULT_UPSCALE_FACTOR or 4.
	UpscaleFactor float64 `json:"upscale_factor,omitempty"`
	// GFPGANv1.4, GFPGANv1.3, RestoreFormer or CodeFormer, or the path of such a weights file.
	Model string `json:"model,omitempty"`
	// The ESRGAN model that enlarges the picture. Default: auto if the output is larger than the input.
	UpscaleModel string `json:"upscale_model,omitempty"`
	// How much of a restored face is taken; 0 changes no pixel.
	Strength *float64 `json:"strength,omitempty"`
	// Restore the largest face alone.
	OnlyLargest bool `json:"only_largest,omitempty"`
	// A face whose longer side has fewer pixels of the input is not restored.
	MinFacePx int `json:"min_face_px,omitempty"`
	// The largest faces are restored, at most so many.
	MaxFaces int `json:"max_faces,omitempty"`
	// The least score of a face: a lower value finds more faces, and more that are none.
	DetectorThreshold float64 `json:"detector_threshold,omitempty"`
	// auto: the fastest one that is faithful on this device.
	Precision string `json:"precision,omitempty"`
}

// FakeConfig: The fake engine, for people who write hosts: every way in which a worker can behave. Runs `steps` steps of `step_s` seconds. The other fields say what happens at step `at_step`.
type FakeConfig struct {
	Steps *int    `json:"steps,omitempty"`
	StepS float64 `json:"step_s,omitempty"`
	// Model load time.
	LoadS float64 `json:"load_s,omitempty"`
	// Named in the result; see load_s.
	Model  string `json:"model,omitempty"`
	AtStep int    `json:"at_step,omitempty"`
	// print() it to stdout.
	PrintText string `json:"print_text,omitempty"`
	// The same from C: puts() and write(1).
	CPrintText string `json:"c_print_text,omitempty"`
	// The same from a child process.
	SubprocessText string `json:"subprocess_text,omitempty"`
	// Raise a RuntimeError with this text.
	RaiseText string `json:"raise_text,omitempty"`
	// Fail with this code of the protocol.
	ErrorCode Code `json:"error_code,omitempty"`
	// Exit the process at once.
	ExitCode *int `json:"exit_code,omitempty"`
	// Kill the process with a signal.
	Signal int `json:"signal,omitempty"`
	// Make no more progress.
	Hang bool `json:"hang,omitempty"`
	// The same in native code that holds the GIL.
	HangNative   bool `json:"hang_native,omitempty"`
	IgnoreCancel bool `json:"ignore_cancel,omitempty"`
	// Start a process that outlives the job.
	SpawnSleeper bool `json:"spawn_sleeper,omitempty"`
	// Memory to allocate and never free.
	GrowMB int `json:"grow_mb,omitempty"`
	// Fail as if memory had run out.
	OutOfMemory bool `json:"out_of_memory,omitempty"`
	// Write `output_text` there.
	OutputPath string `json:"output_path,omitempty"`
	OutputText string `json:"output_text,omitempty"`
	// Misbehave only on this attempt: 1 shows a recovery.
	OnlyOnAttempt int `json:"only_on_attempt,omitempty"`
}

// FluxConfig: FLUX.1-dev: an ESRGAN upscale, then image-to-image in tiles.
type FluxConfig struct {
	// Input file.
	ImagePath string `json:"image_path,omitempty"`
	// Input file's bytes.
	ImageBase64 string `json:"image_base64,omitempty"`
	// Input over http or https, or of an object storage: s3://, gs://, az://.
	ImageURL string `json:"image_url,omitempty"`
	// Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken.
	OutputPath string `json:"output_path,omitempty"`
	// Return the output file's bytes in the result instead of writing a file.
	OutputBase64 bool `json:"output_base64,omitempty"`
	// Write the output there: s3://, gs://, az://, or an https URL that takes a PUT (presigned).
	OutputURL string `json:"output_url,omitempty"`
	// Default: by the suffix of output_path or output_url, else png.
	OutputFormat string `json:"output_format,omitempty"`
	// Lossy formats; 100 makes WebP and AVIF lossless.
	Quality int `json:"quality,omitempty"`
	// Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own.
	TargetDPI int `json:"target_dpi,omitempty"`
	// Print width.
	TargetWidthInches float64 `json:"target_width_inches,omitempty"`
	// Print height.
	TargetHeightInches float64 `json:"target_height_inches,omitempty"`
	// Output width in pixels.
	TargetWidth int `json:"target_width,omitempty"`
	// Output height in pixels.
	TargetHeight int `json:"target_height,omitempty"`
	// The part to keep if the print size has another aspect ratio.
	Crop string `json:"crop,omitempty"`
	// Side of a tile in output pixels.
	TileSize int `json:"tile_size,omitempty"`
	// Default: DEFAULT_UPSCALE_FACTOR or 4.
	UpscaleFactor float64 `json:"upscale_factor,omitempty"`
	// Catalogue name or GGUF path.
	Model string `json:"model,omitempty"`
	// First-stage model, as the `model` of the method esrgan.
	UpscaleModel string `json:"upscale_model,omitempty"`
	// A model of scale 1, such as a denoiser, that the picture passes before the upscaling one.
	PreModel string `json:"pre_model,omitempty"`
	// 0 keeps the first stage unchanged.
	Denoise *float64 `json:"denoise,omitempty"`
	// Model calls that are made per tile.
	Steps    int      `json:"steps,omitempty"`
	Guidance *float64 `json:"guidance,omitempty"`
	Prompt   string   `json:"prompt,omitempty"`
	Seed     int      `json:"seed,omitempty"`
}

// Health: Ask for a `health` message.
type Health struct {
	Type string `json:"type"`
	// Repeated in the answer.
	RequestID string `json:"request_id,omitempty"`
}

// ImagenConfig: Imagen on Vertex AI.
type ImagenConfig struct {
	// Input file.
	ImagePath string `json:"image_path,omitempty"`
	// Input file's bytes.
	ImageBase64 string `json:"image_base64,omitempty"`
	// Input over http or https, or of an object storage: s3://, gs://, az://.
	ImageURL string `json:"image_url,omitempty"`
	// Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken.
	OutputPath string `json:"output_path,omitempty"`
	// Return the output file's bytes in the result instead of writing a file.
	OutputBase64 bool `json:"output_base64,omitempty"`
	// Write the output there: s3://, gs://, az://, or an https URL that takes a PUT (presigned).
	OutputURL string `json:"output_url,omitempty"`
	// Default: by the suffix of output_path or output_url, else png.
	OutputFormat string `json:"output_format,omitempty"`
	// Lossy formats; 100 makes WebP and AVIF lossless.
	Quality int `json:"quality,omitempty"`
	// Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches are given, else the input's own.
	TargetDPI int `json:"target_dpi,omitempty"`
	// Print width.
	TargetWidthInches float64 `json:"target_width_inches,omitempty"`
	// Print height.
	TargetHeightInches float64 `json:"target_height_inches,omitempty"`
	// Output width in pixels.
	TargetWidth int `json:"target_width,omitempty"`
	// Output height in pixels.
	TargetHeight int `json:"target_height,omitempty"`
	// The part to keep if the print size has another aspect ratio.
	Crop string `json:"crop,omitempty"`
	// Side of a tile, or height of a band, in input pixels. Default: by free memory.
	TileSize      int    `json:"tile_size,omitempty"`
	UpscaleFactor string `json:"upscale_factor,omitempty"`
	Model         string `json:"model,omitempty"`
	// Cut a picture that is too large for one call into parts; each call is billed.
	Tile bool `json:"tile,omitempty"`
	// Default: GCP_PROJECT_ID from the environment.
	GCPProjectID string `json:"gcp_project_id,omitempty"`
	// Default: GCP_REGION or us-central1.
	GCPRegion string `json:"gcp_region,omitempty"`
}

// Job: One job; its config says the method.
type Job struct {
	JobID string `json:"job_id"`
	// Higher first; equal ones in order.
	Priority int `json:"priority,omitempty"`
	// From acceptance to the terminal event; then deadline_exceeded.
	TimeoutS float64 `json:"timeout_s,omitempty"`
	// Starts of a job that crashes its worker; then it ends as poisoned.
	MaxAttempts int    `json:"max_attempts,omitempty"`
	Config      Config `json:"config"`
}

// Replay: Ask a supervisor with a journal to send the terminal events of these jobs again. Without ids: of every finished job that the journal still holds. Unknown ids are ignored.
type Replay struct {
	Type   string   `json:"type"`
	JobIDs []string `json:"job_ids,omitempty"`
}

// Shutdown: Accept no more jobs, finish the accepted ones, and exit. The end of input means the same.
type Shutdown struct {
	Type string `json:"type"`
}

// Trim: Free caches and unload idle models. Answered by a `health` message when that is done.
type Trim struct {
	Type string `json:"type"`
	// Repeated in the answer.
	RequestID string `json:"request_id,omitempty"`
}

// Accepted: The job is accepted: exactly one `result` or `error` with its id follows.
type Accepted struct {
	Type  string `json:"type"`
	JobID string `json:"job_id"`
	// Jobs that start before this one.
	Position int `json:"position"`
}

// Box: A rectangle in pixels, which may reach beyond the picture.
type Box struct {
	X      float64 `json:"x"`
	Y      float64 `json:"y"`
	Width  float64 `json:"width"`
	Height float64 `json:"height"`
}

// Cause: Why a worker, or a job's supervisor, ended.
type Cause struct {
	Reason   string `json:"reason"`
	ExitCode *int   `json:"exit_code,omitempty"`
	// Such as SIGKILL.
	Signal string `json:"signal,omitempty"`
	// One sentence.
	Detail string `json:"detail,omitempty"`
}

// CropInfo: By how much the upscaled picture is larger than the print, in one direction.
type CropInfo struct {
	Direction string `json:"direction"`
	AmountPx  int    `json:"amount_px"`
	// amount_px / DPI; null if the DPI is unknown.
	AmountInches *float64 `json:"amount_inches,omitempty"`
}

// ErrorMessage: Terminal for `job_id`, which is null if the line has no usable id or that of another job.
type ErrorMessage struct {
	Type  string `json:"type"`
	JobID string `json:"job_id"`
	// One sentence.
	Error     string `json:"error"`
	Code      Code   `json:"code"`
	Retryable bool   `json:"retryable"`
	// The id of a refused line that cannot be `job_id`, because a job of that id is in flight, or because no job may have it (it is empty, or a number or boolean as JSON, or the first 128 characters of a longer one).
	RefusedJobID string `json:"refused_job_id,omitempty"`
	Cause        *Cause `json:"cause,omitempty"`
	Attempt      int    `json:"attempt,omitempty"`
	// For `internal` only.
	Traceback string `json:"traceback,omitempty"`
}

// Face: A face that was found. Positions are in pixels of the input, after it was turned upright.
type Face struct {
	Box Box `json:"box"`
	// How sure the detector is.
	Score float64 `json:"score"`
	// The eyes, the nose, the corners of the mouth; of each pair first the one that is on the left if the face is upright.
	Points   []Point `json:"points"`
	Restored bool    `json:"restored"`
	// Why it was not restored.
	Why string `json:"why,omitempty"`
}

// HealthReport: The answer to `health` and `trim`.
type HealthReport struct {
	Type string `json:"type"`
	// As in the question.
	RequestID string `json:"request_id,omitempty"`
	Status    string `json:"status"`
	Detail    string `json:"detail,omitempty"`
	// Null until a worker has reported it.
	GPUAvailable *bool  `json:"gpu_available,omitempty"`
	GPUName      string `json:"gpu_name,omitempty"`
	// GB.
	GPUMemoryFree *float64 `json:"gpu_memory_free,omitempty"`
	ModelsLoaded  []string `json:"models_loaded,omitempty"`
	// Jobs accepted that have not started.
	QueueSize int     `json:"queue_size"`
	InFlight  int     `json:"in_flight,omitempty"`
	UptimeS   float64 `json:"uptime_s"`
	// Progress messages that newer ones replaced.
	DroppedProgress int            `json:"dropped_progress,omitempty"`
	Workers         []WorkerHealth `json:"workers,omitempty"`
}

// LaneInfo: A queue inside the worker. Jobs of different lanes never wait for each other.
type LaneInfo struct {
	Methods []string `json:"methods"`
	// Jobs the lane holds at once.
	Slots int `json:"slots"`
}

// Point: A position in pixels: the upper left corner of the picture is 0, 0.
type Point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// Progress: Never decreases. A slow reader gets only the newest progress of a job.
type Progress struct {
	Type  string `json:"type"`
	JobID string `json:"job_id"`
	// Percent.
	Progress float64 `json:"progress"`
	Stage    string  `json:"stage"`
	// Steps or tiles done in this stage.
	Done    *int     `json:"done,omitempty"`
	Total   *int     `json:"total,omitempty"`
	ETAS    *float64 `json:"eta_s,omitempty"`
	Attempt int      `json:"attempt,omitempty"`
	// After so long without a message the job counts as stalled.
	BudgetS float64 `json:"budget_s,omitempty"`
}

// Result: Terminal: the output is complete and in place.
type Result struct {
	Type         string `json:"type"`
	JobID        string `json:"job_id"`
	Status       string `json:"status,omitempty"`
	OutputPath   string `json:"output_path,omitempty"`
	OutputBase64 string `json:"output_base64,omitempty"`
	// Without its query.
	OutputURL string `json:"output_url,omitempty"`
	// The size of an output at a URL.
	OutputBytes *int      `json:"output_bytes,omitempty"`
	InputSize   *Size     `json:"input_size,omitempty"`
	OutputSize  *Size     `json:"output_size,omitempty"`
	ScaleFactor *float64  `json:"scale_factor,omitempty"`
	CropInfo    *CropInfo `json:"crop_info,omitempty"`
	// Seconds from start to end, without the time in the queue.
	ProcessingTime float64 `json:"processing_time"`
	Timings        Timings `json:"timings"`
	Model          string  `json:"model,omitempty"`
	// Why `auto` chose the model.
	ModelReason string `json:"model_reason,omitempty"`
	Device      string `json:"device,omitempty"`
	Precision   string `json:"precision,omitempty"`
	// Cloud calls that were made; they may be billed.
	UpstreamCalls *int `json:"upstream_calls,omitempty"`
	// The largest first. Null if the job was not to look for faces.
	Faces    []Face   `json:"faces,omitempty"`
	Attempt  int      `json:"attempt,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// Size: Pixels.
type Size struct {
	Width  int `json:"width"`
	Height int `json:"height"`
}

// Status: The state of the daemon. `ready` is the handshake. Hosts may send jobs before it.
type Status struct {
	Type     string   `json:"type"`
	Message  string   `json:"message"`
	Protocol *int     `json:"protocol,omitempty"`
	Version  string   `json:"version,omitempty"`
	Methods  []string `json:"methods,omitempty"`
	// Methods that lack files or credentials, each with what to do.
	Unavailable map[string]string   `json:"unavailable,omitempty"`
	Models      []string            `json:"models,omitempty"`
	Device      string              `json:"device,omitempty"`
	Lanes       map[string]LaneInfo `json:"lanes,omitempty"`
	PID         *int                `json:"pid,omitempty"`
	// Number of the worker, from 0. Sent by supervisors only.
	Worker *int   `json:"worker,omitempty"`
	Cause  *Cause `json:"cause,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// Timings: Seconds of a job, by phase. Phases overlap, so their sum may exceed the whole.
type Timings struct {
	Queue     float64 `json:"queue,omitempty"`
	Load      float64 `json:"load,omitempty"`
	Decode    float64 `json:"decode,omitempty"`
	Inference float64 `json:"inference,omitempty"`
	Encode    float64 `json:"encode,omitempty"`
}

// WorkerHealth: A supervisor's row for one worker.
type WorkerHealth struct {
	Worker int    `json:"worker"`
	State  string `json:"state"`
	PID    *int   `json:"pid,omitempty"`
	Device string `json:"device,omitempty"`
	// Ids of the jobs in flight on this worker.
	Jobs            []string `json:"jobs,omitempty"`
	ModelsLoaded    []string `json:"models_loaded,omitempty"`
	RSSMB           *float64 `json:"rss_mb,omitempty"`
	BaselineRSSMB   *float64 `json:"baseline_rss_mb,omitempty"`
	GPUMemoryUsedMB *float64 `json:"gpu_memory_used_mb,omitempty"`
	JobsDone        int      `json:"jobs_done,omitempty"`
	Restarts        int      `json:"restarts,omitempty"`
	LastRestart     *Cause   `json:"last_restart,omitempty"`
	UptimeS         float64  `json:"uptime_s,omitempty"`
}
