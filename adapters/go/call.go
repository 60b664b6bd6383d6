package upscaled

import (
	"context"
	"errors"
)

// Call is a job that was sent.
type Call struct {
	client     *Client
	id         string
	onProgress func(Progress)
	daemon     *daemon
	done       chan struct{}
	result     *Result
	err        error
}

// Upscale runs one job. The error is a *JobError, or a *DaemonGoneError where the daemon went away.
//
// When the context ends, the job is cancelled, and Upscale returns when the daemon has let go of it:
// nothing is written to the output after that. Where the result came first, it is returned.
func (c *Client) Upscale(ctx context.Context, job Job, options ...CallOption) (*Result, error) {
	call, err := c.Submit(ctx, job, options...)
	if err != nil {
		return nil, err
	}
	return call.Wait(ctx)
}

// Submit writes one job; the context is for that alone. While the daemon does not read, or is being
// started again, Submit waits. A job without a JobID is given one.
func (c *Client) Submit(ctx context.Context, job Job, options ...CallOption) (*Call, error) {
	if job.JobID == "" {
		job.JobID = newID()
	}
	call := &Call{client: c, id: job.JobID, done: make(chan struct{})}
	for _, option := range options {
		option(call)
	}
	for {
		d, changed, err := c.register(call)
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			c.forget(call)
			return nil, localError(call.id, CodeCancelled, "the job was cancelled", ctx.Err())
		}
		if d == nil {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		switch err := d.channel.Send(ctx.Done(), job); {
		case err == nil:
			return call, nil
		case errors.Is(err, errStopped):
			c.forget(call)
			return nil, localError(call.id, CodeCancelled, "the job was cancelled", ctx.Err())
		case errors.Is(err, ErrDaemonGone):
			// It was not written: it may have the next daemon.
			<-d.gone
			c.forget(call)
			call.done, call.err = make(chan struct{}), nil
		default:
			c.forget(call)
			return nil, err
		}
	}
}

// Wait returns how the job ended. When the context ends first, it cancels the job, and waits on.
func (call *Call) Wait(ctx context.Context) (*Result, error) {
	select {
	case <-call.done:
		return call.result, call.err
	case <-ctx.Done():
	}
	// Where this fails the call is settled all the same.
	_ = call.daemon.channel.Send(call.done, Cancel{Type: "cancel", JobID: call.id})
	<-call.done
	var failed *JobError
	if errors.As(call.err, &failed) {
		ours := *failed
		ours.context = ctx.Err()
		return nil, &ours
	}
	return call.result, call.err
}

// ID is the job's id.
func (call *Call) ID() string { return call.id }

// register notes the call, and gives it the daemon; nil while there is none.
func (c *Client) register(call *Call) (*daemon, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, nil, localError(call.id, CodeShuttingDown, "the client is closed", ErrClosed)
	}
	if c.end != nil {
		return nil, nil, c.end
	}
	if other := c.calls[call.id]; other != nil && other != call {
		return nil, nil, localError(call.id, CodeDuplicateJob, "a job of that id is in flight", nil)
	}
	c.calls[call.id] = call
	call.daemon = c.daemon
	return c.daemon, c.changed, nil
}

func (c *Client) forget(call *Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[call.id] == call {
		delete(c.calls, call.id)
	}
}

func (c *Client) settle(id string, result *Result, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call := c.calls[id]; call != nil {
		call.settle(result, err)
	}
}

// settle is called with the client's lock held.
func (call *Call) settle(result *Result, err error) {
	delete(call.client.calls, call.id)
	call.result, call.err = result, err
	close(call.done)
}
