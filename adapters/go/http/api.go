// Code generated from adapters/http/openapi.json by adapters/generate. DO NOT EDIT.

package upscaledhttp

import upscaled "github.com/upscaled/upscaled/adapters/go"

// Batch: Several pictures that were submitted together.
type Batch struct {
	BatchID string `json:"batch_id"`
	Jobs    []Job  `json:"jobs"`
	// Files that were not accepted, with reasons.
	Refused []Problem `json:"refused,omitempty"`
	// One zip of the results that are completed.
	ResultsURL string `json:"results_url"`
}

// Cleanup: What a cleanup removed.
type Cleanup struct {
	RemovedFiles int `json:"removed_files"`
	FreedBytes   int `json:"freed_bytes"`
}

// CleanupRequest: What a cleanup may remove.
type CleanupRequest struct {
	// Since the job's end.
	OlderThanS float64 `json:"older_than_s"`
}

// EncodedResult: A result in base64.
type EncodedResult struct {
	ImageBase64 string `json:"image_base64"`
	MediaType   string `json:"media_type"`
}

// FieldError: One field of a request that is wrong.
type FieldError struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// FiledPicture: A picture on its way to the bucket. `success`, `message` and `result` are set once it is filed, `problem` if it failed.
type FiledPicture struct {
	// A UUID, given by the server.
	PictureID string `json:"picture_id"`
	// The file's name, cleaned: for display.
	Name   string `json:"name,omitempty"`
	Status string `json:"status"`
	// Why it waits, if a try has failed.
	Detail string `json:"detail,omitempty"`
	// The job that upscales it, at `/api/jobs/`.
	JobID      string          `json:"job_id,omitempty"`
	CreatedAt  string          `json:"created_at"`
	FinishedAt string          `json:"finished_at,omitempty"`
	Success    *bool           `json:"success,omitempty"`
	Message    string          `json:"message,omitempty"`
	Result     *PipelineResult `json:"result,omitempty"`
	Problem    *Problem        `json:"problem,omitempty"`
}

// Health: How the server and its daemon are.
type Health struct {
	Status       string            `json:"status"`
	Detail       string            `json:"detail,omitempty"`
	Version      string            `json:"version"`
	UptimeS      float64           `json:"uptime_s"`
	Methods      []string          `json:"methods,omitempty"`
	Unavailable  map[string]string `json:"unavailable,omitempty"`
	QueueSize    int               `json:"queue_size"`
	InFlight     int               `json:"in_flight"`
	ModelsLoaded []string          `json:"models_loaded,omitempty"`
	Device       string            `json:"device,omitempty"`
	GPUAvailable *bool             `json:"gpu_available,omitempty"`
	GPUName      string            `json:"gpu_name,omitempty"`
	// GB.
	GPUMemoryFree  *float64 `json:"gpu_memory_free,omitempty"`
	DaemonRestarts int      `json:"daemon_restarts,omitempty"`
	// It files pictures in a bucket, at `/api/images`.
	HasPipeline bool   `json:"has_pipeline,omitempty"`
	Limits      Limits `json:"limits"`
	// Only for a request with a key, if keys are set.
	Workers []upscaled.WorkerHealth `json:"workers,omitempty"`
}

// Job: A job, from its submit to the end of its record.
type Job struct {
	// A UUID, given by the server.
	JobID string `json:"job_id"`
	// The batch that it was submitted with.
	BatchID string `json:"batch_id,omitempty"`
	Method  string `json:"method"`
	Status  string `json:"status"`
	// Percent; it never falls.
	Progress float64 `json:"progress,omitempty"`
	// What the worker is doing, such as `upscale`.
	Stage string `json:"stage,omitempty"`
	// Seconds left, if they are known.
	ETAS *float64 `json:"eta_s,omitempty"`
	// Jobs that start before this one.
	Position *int `json:"position,omitempty"`
	Attempt  int  `json:"attempt,omitempty"`
	// The client's own name for it.
	Label string `json:"label,omitempty"`
	// The upload's file name, or the end of `image_url`, cleaned: for display.
	Name       string `json:"name,omitempty"`
	CreatedAt  string `json:"created_at"`
	StartedAt  string `json:"started_at,omitempty"`
	FinishedAt string `json:"finished_at,omitempty"`
	// When the result will be removed.
	ExpiresAt string         `json:"expires_at,omitempty"`
	InputSize *upscaled.Size `json:"input_size,omitempty"`
	// Planned from the submit on; the real one when it is completed.
	OutputSize *upscaled.Size `json:"output_size,omitempty"`
	StatusURL  string         `json:"status_url"`
	EventsURL  string         `json:"events_url"`
	CancelURL  string         `json:"cancel_url"`
	ResultURL  string         `json:"result_url,omitempty"`
	// Of the result, such as `image/png`.
	MediaType     string             `json:"media_type,omitempty"`
	FileSizeBytes *int               `json:"file_size_bytes,omitempty"`
	ScaleFactor   *float64           `json:"scale_factor,omitempty"`
	CropInfo      *upscaled.CropInfo `json:"crop_info,omitempty"`
	// Seconds, queue left out.
	ProcessingTime *float64          `json:"processing_time,omitempty"`
	Timings        *upscaled.Timings `json:"timings,omitempty"`
	Model          string            `json:"model,omitempty"`
	// Why `auto` chose the model.
	ModelReason   string `json:"model_reason,omitempty"`
	Device        string `json:"device,omitempty"`
	Precision     string `json:"precision,omitempty"`
	UpstreamCalls *int   `json:"upstream_calls,omitempty"`
	// The faces that were found, if the job was to look for them.
	Faces    []upscaled.Face `json:"faces,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
	// One sentence.
	Error string `json:"error,omitempty"`
	// A stable code, such as `input_unreadable`.
	Code      string `json:"code,omitempty"`
	Retryable *bool  `json:"retryable,omitempty"`
}

// JobList: Jobs, the newest first.
type JobList struct {
	Jobs []Job `json:"jobs"`
	// `before` of the next page; null at the end.
	Next string `json:"next,omitempty"`
}

// Limits: What a request may ask for.
type Limits struct {
	MaxRequestMB        int     `json:"max_request_mb"`
	MaxInputMegapixels  float64 `json:"max_input_megapixels"`
	MaxOutputMegapixels float64 `json:"max_output_megapixels"`
	MaxQueue            int     `json:"max_queue"`
	RatePerMinute       int     `json:"rate_per_minute"`
	MaxWaitS            float64 `json:"max_wait_s"`
	JobTimeoutS         float64 `json:"job_timeout_s"`
}

// MethodStats: Counts since the records begin (`keep_records_days`).
type MethodStats struct {
	Completed int `json:"completed,omitempty"`
	Failed    int `json:"failed,omitempty"`
	Cancelled int `json:"cancelled,omitempty"`
	// Processing time of the completed jobs.
	Seconds float64 `json:"seconds,omitempty"`
}

// Model: A model that `model` may name.
type Model struct {
	Name   string `json:"name"`
	Method string `json:"method"`
	// The network's own; null if it has none.
	Scale           *int      `json:"scale,omitempty"`
	SupportedScales []float64 `json:"supported_scales,omitempty"`
	Licence         string    `json:"licence,omitempty"`
	// Null if the licence leaves it open.
	CommercialUse *bool  `json:"commercial_use,omitempty"`
	Description   string `json:"description,omitempty"`
	Installed     bool   `json:"installed"`
	Default       bool   `json:"default,omitempty"`
}

// ModelList: The catalogue's models of the methods that this server runs.
type ModelList struct {
	Models []Model `json:"models"`
}

// PictureBatch: Several pictures for the bucket that were uploaded together.
type PictureBatch struct {
	BatchID   string         `json:"batch_id"`
	Status    string         `json:"status"`
	StatusURL string         `json:"status_url"`
	Pictures  []FiledPicture `json:"pictures"`
	// Files that were not accepted, with reasons.
	Refused []Problem `json:"refused,omitempty"`
}

// PictureEvent: The body of a picture's webhook: it is filed, or cannot be.
type PictureEvent struct {
	Type      string       `json:"type"`
	Timestamp string       `json:"timestamp"`
	Data      FiledPicture `json:"data"`
}

// PipelineAnswer: The answer to a picture for the bucket. success: false if it could not be upscaled.
type PipelineAnswer struct {
	Success bool           `json:"success"`
	Message string         `json:"message"`
	Result  PipelineResult `json:"result"`
}

// PipelineResult: What became of a picture that was uploaded to the bucket.
type PipelineResult struct {
	// The file's name with a digest of its content.
	OriginalKey string `json:"original_key"`
	Status      string `json:"status"`
	// `good_quality`, `upscaled` or `couldn't_upscale`.
	Folder string `json:"folder"`
	S3URL  string `json:"s3_url"`
	// Null if it could not be scored.
	QualityScore *float64 `json:"quality_score,omitempty"`
	// Null if it was not upscaled.
	UpscaleScale *int   `json:"upscale_scale,omitempty"`
	ProcessedAt  string `json:"processed_at"`
	// Of its record in the bucket, `results/JOB_ID.json`.
	JobID string `json:"job_id"`
	// Why it could not be upscaled; null on success.
	Code string `json:"code,omitempty"`
	// The faces of the upscaled picture. Null if none were looked for.
	Faces []upscaled.Face `json:"faces,omitempty"`
}

// PipelineStats: The pipeline, and the pictures that went through this server since the records begin (`keep_records_days`). A picture that had a record before is not counted.
type PipelineStats struct {
	Bucket    string  `json:"bucket"`
	Threshold float64 `json:"threshold"`
	Scale     int     `json:"scale"`
	Score     string  `json:"score"`
	// Pictures, by folder.
	Folders map[string]int `json:"folders"`
	Scores  []ScoreCount   `json:"scores"`
	// The share outside of `couldn't_upscale`. Null without pictures.
	SuccessRate *float64 `json:"success_rate,omitempty"`
	// From receipt to record, on average. Null without pictures.
	SecondsPerPicture *float64 `json:"seconds_per_picture,omitempty"`
	// Pictures of batches that are not filed yet.
	Open int `json:"open"`
	// The last ones received, the newest first.
	Recent []FiledPicture `json:"recent"`
}

// Probe: A probe's answer; its status is 503 if `ok` is false.
type Probe struct {
	Ok bool `json:"ok"`
}

// Problem: An error (RFC 9457, `application/problem+json`).
type Problem struct {
	// A URI of this kind of problem.
	Type   string `json:"type,omitempty"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	// One sentence: what is wrong, and what to do.
	Detail    string       `json:"detail"`
	Code      string       `json:"code"`
	Retryable bool         `json:"retryable,omitempty"`
	Errors    []FieldError `json:"errors,omitempty"`
	JobID     string       `json:"job_id,omitempty"`
	// The refused file of a batch.
	Name string `json:"name,omitempty"`
}

// QueueDepth: One method's jobs in the queue, and its machines.
type QueueDepth struct {
	Waiting int `json:"waiting"`
	Running int `json:"running"`
	// Of those that wait. Null if nothing waits, or RabbitMQ does not tell.
	OldestS  *float64 `json:"oldest_s,omitempty"`
	Machines int      `json:"machines"`
}

// ScoreCount: Pictures whose score is from the last entry's `below` up to this one's.
type ScoreCount struct {
	// Null for the last entry, which has no end.
	Below    *float64 `json:"below,omitempty"`
	Pictures int      `json:"pictures"`
}

// Stats: Jobs by method and outcome, the queue, and the bytes on disk.
type Stats struct {
	Methods      map[string]MethodStats `json:"methods"`
	QueueSize    int                    `json:"queue_size"`
	InFlight     int                    `json:"in_flight"`
	UploadsBytes int                    `json:"uploads_bytes"`
	ResultsBytes int                    `json:"results_bytes"`
}

// WebhookEvent: The body of a webhook: the end of a job.
type WebhookEvent struct {
	Type string `json:"type"`
	// When the job ended.
	Timestamp string `json:"timestamp"`
	Data      Job    `json:"data"`
}
