// Generated from adapters/http/openapi.json by adapters/generate. Do not edit.

import type { CropInfo, Face, Size, Timings, WorkerHealth } from "../protocol.js";

/** Several pictures that were submitted together. */
export interface Batch {
  batch_id: string;
  jobs: Job[];
  /** Files that were not accepted, with reasons. */
  refused?: Problem[];
  /** One zip of the results that are completed. */
  results_url: string;
}

/** What a cleanup removed. */
export interface Cleanup {
  removed_files: number;
  freed_bytes: number;
}

/** What a cleanup may remove. */
export interface CleanupRequest {
  /** Since the job's end. */
  older_than_s: number;
}

/** A result in base64. */
export interface EncodedResult {
  image_base64: string;
  media_type: string;
}

/** One field of a request that is wrong. */
export interface FieldError {
  field: string;
  detail: string;
}

/** A picture on its way to the bucket. `success`, `message` and `result` are set once it is filed, `problem` if it failed. */
export interface FiledPicture {
  /** A UUID, given by the server. */
  picture_id: string;
  /** The file's name, cleaned: for display. */
  name?: string;
  status: "waiting" | "processing" | "filed" | "failed" | (string & {});
  /** Why it waits, if a try has failed. */
  detail?: string;
  /** The job that upscales it, at `/api/jobs/`. */
  job_id?: string;
  created_at: string;
  finished_at?: string;
  success?: boolean;
  message?: string;
  result?: PipelineResult;
  problem?: Problem;
}

/** How the server and its daemon are. */
export interface Health {
  status: "ok" | "loading" | "degraded" | "draining" | "failed" | (string & {});
  detail?: string;
  version: string;
  uptime_s: number;
  methods?: string[];
  unavailable?: Record<string, string>;
  queue_size: number;
  in_flight: number;
  models_loaded?: string[];
  device?: string;
  gpu_available?: boolean;
  gpu_name?: string;
  /** GB. */
  gpu_memory_free?: number;
  daemon_restarts?: number;
  /** It files pictures in a bucket, at `/api/images`. */
  has_pipeline?: boolean;
  limits: Limits;
  /** Only for a request with a key, if keys are set. */
  workers?: WorkerHealth[];
}

/** A job, from its submit to the end of its record. */
export interface Job {
  /** A UUID, given by the server. */
  job_id: string;
  /** The batch that it was submitted with. */
  batch_id?: string;
  method: string;
  status: "queued" | "processing" | "completed" | "failed" | "cancelled" | (string & {});
  /** Percent; it never falls. */
  progress?: number;
  /** What the worker is doing, such as `upscale`. */
  stage?: string;
  /** Seconds left, if they are known. */
  eta_s?: number;
  /** Jobs that start before this one. */
  position?: number;
  attempt?: number;
  /** The client's own name for it. */
  label?: string;
  /** The upload's file name, or the end of `image_url`, cleaned: for display. */
  name?: string;
  created_at: string;
  started_at?: string;
  finished_at?: string;
  /** When the result will be removed. */
  expires_at?: string;
  input_size?: Size;
  /** Planned from the submit on; the real one when it is completed. */
  output_size?: Size;
  status_url: string;
  events_url: string;
  cancel_url: string;
  result_url?: string;
  /** Of the result, such as `image/png`. */
  media_type?: string;
  file_size_bytes?: number;
  scale_factor?: number;
  crop_info?: CropInfo;
  /** Seconds, queue left out. */
  processing_time?: number;
  timings?: Timings;
  model?: string;
  /** Why `auto` chose the model. */
  model_reason?: string;
  device?: string;
  precision?: string;
  upstream_calls?: number;
  /** The faces that were found, if the job was to look for them. */
  faces?: Face[];
  warnings?: string[];
  /** One sentence. */
  error?: string;
  /** A stable code, such as `input_unreadable`. */
  code?: string;
  retryable?: boolean;
}

/** Jobs, the newest first. */
export interface JobList {
  jobs: Job[];
  /** `before` of the next page; null at the end. */
  next?: string;
}

/** What a request may ask for. */
export interface Limits {
  max_request_mb: number;
  max_input_megapixels: number;
  max_output_megapixels: number;
  max_queue: number;
  rate_per_minute: number;
  max_wait_s: number;
  job_timeout_s: number;
}

/** Counts since the records begin (`keep_records_days`). */
export interface MethodStats {
  completed?: number;
  failed?: number;
  cancelled?: number;
  /** Processing time of the completed jobs. */
  seconds?: number;
}

/** A model that `model` may name. */
export interface Model {
  name: string;
  method: string;
  /** The network's own; null if it has none. */
  scale?: number;
  supported_scales?: number[];
  licence?: string;
  /** Null if the licence leaves it open. */
  commercial_use?: boolean;
  description?: string;
  installed: boolean;
  default?: boolean;
}

/** The catalogue's models of the methods that this server runs. */
export interface ModelList {
  models: Model[];
}

/** Several pictures for the bucket that were uploaded together. */
export interface PictureBatch {
  batch_id: string;
  status: "processing" | "finished" | (string & {});
  status_url: string;
  pictures: FiledPicture[];
  /** Files that were not accepted, with reasons. */
  refused?: Problem[];
}

/** The body of a picture's webhook: it is filed, or cannot be. */
export interface PictureEvent {
  type: "picture.filed" | "picture.failed" | (string & {});
  timestamp: string;
  data: FiledPicture;
}

/** The answer to a picture for the bucket. success: false if it could not be upscaled. */
export interface PipelineAnswer {
  success: boolean;
  message: string;
  result: PipelineResult;
}

/** What became of a picture that was uploaded to the bucket. */
export interface PipelineResult {
  /** The file's name with a digest of its content. */
  original_key: string;
  status: "success" | "error" | (string & {});
  /** `good_quality`, `upscaled` or `couldn't_upscale`. */
  folder: string;
  s3_url: string;
  /** Null if it could not be scored. */
  quality_score?: number;
  /** Null if it was not upscaled. */
  upscale_scale?: number;
  processed_at: string;
  /** Of its record in the bucket, `results/JOB_ID.json`. */
  job_id: string;
  /** Why it could not be upscaled; null on success. */
  code?: string;
  /** The faces of the upscaled picture. Null if none were looked for. */
  faces?: Face[];
}

/** The pipeline, and the pictures that went through this server since the records begin (`keep_records_days`). A picture that had a record before is not counted. */
export interface PipelineStats {
  bucket: string;
  threshold: number;
  scale: number;
  score: string;
  /** Pictures, by folder. */
  folders: Record<string, number>;
  scores: ScoreCount[];
  /** The share outside of `couldn't_upscale`. Null without pictures. */
  success_rate?: number;
  /** From receipt to record, on average. Null without pictures. */
  seconds_per_picture?: number;
  /** Pictures of batches that are not filed yet. */
  open: number;
  /** The last ones received, the newest first. */
  recent: FiledPicture[];
}

/** A probe's answer; its status is 503 if `ok` is false. */
export interface Probe {
  ok: boolean;
}

/** An error (RFC 9457, `application/problem+json`). */
export interface Problem {
  /** A URI of this kind of problem. */
  type?: string;
  title: string;
  status: number;
  /** One sentence: what is wrong, and what to do. */
  detail: string;
  code: string;
  retryable?: boolean;
  errors?: FieldError[];
  job_id?: string;
  /** The refused file of a batch. */
  name?: string;
}

/** One method's jobs in the queue, and its machines. */
export interface QueueDepth {
  waiting: number;
  running: number;
  /** Of those that wait. Null if nothing waits, or RabbitMQ does not tell. */
  oldest_s?: number;
  machines: number;
}

/** Pictures whose score is from the last entry's `below` up to this one's. */
export interface ScoreCount {
  /** Null for the last entry, which has no end. */
  below?: number;
  pictures: number;
}

/** Jobs by method and outcome, the queue, and the bytes on disk. */
export interface Stats {
  methods: Record<string, MethodStats>;
  queue_size: number;
  in_flight: number;
  uploads_bytes: number;
  results_bytes: number;
}

/** The body of a webhook: the end of a job. */
export interface WebhookEvent {
  type: "job.completed" | "job.failed" | "job.cancelled" | (string & {});
  /** When the job ended. */
  timestamp: string;
  data: Job;
}
