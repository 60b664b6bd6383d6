package upscaled

import (
	"context"
	"errors"
)

// Call is a job that was submitted.
type Call struct {
	client     *Client
	id         string
	onProgress func(Progress)
	done       chan struct{}
	// Closed by the first cancel.
	stop chan struct{}
	// Of a call whose picture is no file; else nil.
	files *files

	// The client's lock guards the rest.
	result *Result
	err    error
	// The order of the calls.
	number int
	// The job's line, until a daemon has accepted it.
	line []byte
	// The daemon that has the job, or is being given it; nil while the job waits for one, or for room.
	daemon     *daemon
	delivering bool
	// The daemon ended while the job was being given to it.
	missed     bool
	accepted   bool
	cancelling bool
	settled    bool
	// How many daemons were given the job and ended before they accepted it.
	lost int
}

// Upscale runs one job. The error is a *JobError, or a *DaemonGoneError if the daemon went away.
//
// When the context ends, the job is cancelled, and Upscale returns when the daemon has let go of it:
// nothing is written to the output after that. If the result came first, it is returned. If the daemon
// does not answer the cancel in time, Upscale returns all the same: see WithCancelGrace.
func (c *Client) Upscale(ctx context.Context, job Job, options ...CallOption) (*Result, error) {
	call, err := c.Submit(ctx, job, options...)
	if err != nil {
		return nil, err
	}
	return call.Wait(ctx)
}

// Submit writes one job; the context is for that alone. While the daemon does not read, or is being
// started again, Submit waits. A job without a JobID is given one. A job that cannot be written is
// refused at once, with CodeInvalidJob, CodeInvalidJSON or CodeLineTooLong.
func (c *Client) Submit(ctx context.Context, job Job, options ...CallOption) (*Call, error) {
	if job.JobID == "" {
		job.JobID = newID()
	}
	call := &Call{client: c, id: job.JobID, done: make(chan struct{}), stop: make(chan struct{})}
	for _, option := range options {
		option(call)
	}
	var err error
	if call.files != nil {
		call.files.parent = c.settings.tempDir
		if job, err = c.prepareFiles(ctx, call.files, job); err != nil {
			return nil, err
		}
	}
	if err = c.submit(ctx, call, job); err != nil {
		return nil, err
	}
	return call, nil
}

// submit writes the call's job. If it cannot be written, the call ends.
func (c *Client) submit(ctx context.Context, call *Call, job Job) (err error) {
	defer func() {
		if err != nil && call.files != nil {
			call.files.remove()
		}
	}()
	if call.line, err = job.line(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return cancelled(job.JobID, ctx.Err())
	}
	if err = c.register(call); err != nil {
		return err
	}
	err = c.deliver(call, ctx.Done())
	if errors.Is(err, errStopped) {
		err = cancelled(call.id, ctx.Err())
	}
	if err != nil {
		c.fail(call, err)
	}
	return err
}

// Wait returns how the job ended. When the context ends first, it cancels the job, and waits on.
func (call *Call) Wait(ctx context.Context) (*Result, error) {
	select {
	case <-call.done:
		return call.result, call.err
	case <-ctx.Done():
	}
	call.client.cancel(call)
	<-call.done
	var failed *JobError
	if errors.As(call.err, &failed) {
		ours := *failed
		ours.reason = ctx.Err()
		return nil, &ours
	}
	return call.result, call.err
}

// ID is the job's id.
func (call *Call) ID() string { return call.id }
