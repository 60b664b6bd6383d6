package upscaled

import (
	"context"
	"errors"
)

// Transport runs one job in another place than the program's own daemon; adapters/go/http runs it on a server. The job has an
// id, and its input and its output are files, base64 or a URL. onProgress may be nil.
type Transport func(ctx context.Context, job Job, onProgress func(Progress)) (*Result, error)

// Upscale runs one job by the transport, as Client.Upscale does by a daemon: what cannot be sent is refused, and the
// pictures of a Reader and for a Writer are files in tempDir meanwhile. When stopped is closed, no Reader is read any
// further, and the error is a *JobError with CodeShuttingDown.
func (run Transport) Upscale(ctx context.Context, stopped <-chan struct{}, tempDir string, job Job, options ...CallOption) (*Result, error) {
	if job.JobID == "" {
		job.JobID = newID()
	}
	call := &Call{id: job.JobID}
	for _, option := range options {
		option(call)
	}
	if call.files != nil {
		call.files.parent = tempDir
		prepared, err := call.files.prepareUntil(ctx, stopped, job)
		if errors.Is(err, errStopped) {
			err = closed(job.JobID)
		}
		if err != nil {
			return nil, err
		}
		job = prepared
	}
	result, err := run.line(ctx, job, call.onProgress)
	if call.files == nil {
		return result, err
	}
	return call.files.finish(result, err)
}

func (run Transport) line(ctx context.Context, job Job, onProgress func(Progress)) (*Result, error) {
	if _, err := job.line(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, cancelled(job.JobID, ctx.Err())
	}
	return run(ctx, job, onProgress)
}

// NewJobError is for transports: how a job ends without a result. reason is the error of this process that lies behind
// it; nil if there is none.
func NewJobError(message ErrorMessage, reason error) *JobError {
	message.Type = "error"
	return &JobError{Message: message, JobID: message.JobID, reason: reason}
}
