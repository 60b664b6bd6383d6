// Every picture of the queue: from the start of its upload to the end of its job.

import * as originals from "./originals.js";

const ENDED = new Set(["completed", "failed", "cancelled"]);

/**
 * One picture.
 *
 * phase: `waiting` (for its turn to be uploaded), `uploading`, `refused`, or `job`: then `job` is
 * the server's record.
 */
export class Entry {
  constructor(fields) {
    this.phase = "job";
    this.job = null;
    this.file = null;
    this.name = "picture";
    this.size = null; // of the input
    this.planned = null; // of the result
    this.thumbnail = null; // a blob
    this.method = null;
    this.fields = null; // what the server is asked for
    this.sent = 0; // share of the upload, 0 to 1
    this.problem = null; // why it was refused
    this.requestKey = null; // the Idempotency-Key of the upload
    this.attempts = 0;
    Object.assign(this, fields);
  }

  get status() {
    return this.phase === "job" ? this.job.status : this.phase;
  }

  get group() {
    if (this.status === "completed") return "done";
    return ["failed", "cancelled", "refused"].includes(this.status) ? "stopped" : "active";
  }

  /** False for a completed job whose file the server has removed: it keeps records for longer. */
  get hasResult() {
    return Boolean(this.job?.result_url);
  }

  /** False too for the text of the test partner `fake`. */
  get hasPicture() {
    return this.hasResult && Boolean(this.job.output_size);
  }

  get inputSize() {
    return this.job?.input_size ?? this.size;
  }

  get outputSize() {
    return this.job?.output_size ?? this.planned;
  }
}

/**
 * All entries. Emits `added`, `changed`, `removed`, and `moved` (it came, went or
 * has another status), with the
 * entry as `detail`.
 */
export class Entries extends EventTarget {
  constructor() {
    super();
    this.all = new Set();
    this.byJob = new Map();
    this.unknown = new Map();
    this.removed = new Set();
    // Uploads without an answer yet: an unknown job may be one of them.
    this.unanswered = 0;
  }

  emit(type, entry) {
    this.dispatchEvent(new CustomEvent(type, { detail: entry }));
  }

  add(entry) {
    this.all.add(entry);
    this.emit("added", entry);
    this.emit("moved", entry);
  }

  change(entry, fields) {
    const before = entry.status;
    Object.assign(entry, fields);
    if (!this.all.has(entry)) return;
    this.emit("changed", entry);
    if (entry.status !== before) this.emit("moved", entry);
  }

  remove(entry) {
    this.all.delete(entry);
    if (entry.job) {
      this.byJob.delete(entry.job.job_id);
      this.removed.add(entry.job.job_id);
      originals.forget(entry.job.job_id);
    }
    this.emit("removed", entry);
    this.emit("moved", entry);
  }

  /** A job was deleted, here or by another page. */
  drop(jobId) {
    const entry = this.byJob.get(jobId);
    if (entry) this.remove(entry);
  }

  /** The server took the upload of this entry as a job. */
  adopt(entry, job) {
    const newest = this.unknown.get(job.job_id) ?? job;
    this.unknown.delete(job.job_id);
    this.byJob.set(job.job_id, entry);
    const { file, thumbnail, method, fields } = entry;
    originals.keep({ jobId: job.job_id, file, thumbnail, method, fields });
    this.change(entry, { phase: "job", job: newest });
  }

  /** Take a job's newest state from the server. */
  async take(job) {
    const found = this.update(job);
    if (found) this.addFound(found, await originals.find(job.job_id));
  }

  /** Update the entry of a job. Returns a new entry, which is to be added, if there is none. */
  update(job) {
    if (this.removed.has(job.job_id)) return null;
    const entry = this.byJob.get(job.job_id);
    if (entry) {
      if (!isOlder(job, entry.job)) this.change(entry, { job });
      return null;
    }
    if (this.unanswered > 0) {
      this.unknown.set(job.job_id, job);
      return null;
    }
    const found = new Entry({ job, name: job.name ?? job.label ?? "picture", method: job.method });
    this.byJob.set(job.job_id, found);
    return found;
  }

  addFound(found, original) {
    if (original) {
      const { file, thumbnail, method, fields } = original;
      Object.assign(found, { file, thumbnail, method, fields });
    }
    if (this.byJob.get(found.job.job_id) === found) this.add(found);
  }

  /** An upload was answered, or failed. */
  settle() {
    this.unanswered -= 1;
    if (this.unanswered > 0) return;
    const jobs = [...this.unknown.values()];
    this.unknown.clear();
    for (const job of jobs) this.take(job);
  }

  /** Take the list that `listJobs` asks the server for: jobs that it no longer has are removed here. */
  async reconcile(listJobs) {
    // An upload that becomes a job meanwhile may be missing in the list.
    const known = [...this.byJob.values()];
    const jobs = await listJobs();
    // In one task: the browser would lay the page out anew for each job.
    const kept = await originals.all();
    const ids = new Set(jobs.map((job) => job.job_id));
    for (const entry of known) {
      if (this.all.has(entry) && !ids.has(entry.job.job_id)) this.remove(entry);
    }
    for (const job of jobs) {
      const found = this.update(job);
      if (found) this.addFound(found, kept.get(job.job_id));
    }
    if (this.unanswered === 0) await originals.forgetOthers(new Set(this.byJob.keys()));
  }
}

function isOlder(job, known) {
  if (ENDED.has(known.status)) return !ENDED.has(job.status);
  return job.status === "queued" && known.status === "processing" && job.attempt <= known.attempt;
}
