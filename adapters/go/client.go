// Package upscaled starts the upscale daemon, gives it jobs, and starts it again if it exits.
//
//	client, err := upscaled.Start(ctx)
//	result, err := client.Upscale(ctx, upscaled.Job{Config: upscaled.EsrganConfig{ImagePath: "photo.jpg"}})
//	err = client.Close()
package upscaled

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"sync"
	"time"
)

// The daemon's exit status for wrong usage.
const usageStatus = 2

// Client is a daemon and its calls. Its methods may be called from any goroutine.
type Client struct {
	settings settings

	mu    sync.Mutex
	calls map[string]*Call
	// How many calls there were; of those that are open, how many a daemon has or is being given, and how
	// many it has accepted.
	registered, onWire, accepted int
	// Calls that the next daemon is to have, and calls that wait for room in the queue of this one.
	lost, refused []*Call
	redelivering  bool
	questions     map[string]chan<- HealthReport
	asked         int

	daemon *daemon
	// changed is closed and replaced whenever one of these changes.
	changed      chan struct{}
	ready        *Status
	isReady      bool
	closing      bool // no more calls are taken
	sealed       bool // nothing more is sent
	failedStarts int
	end          error
	stopped      chan struct{}
}

// Start starts a daemon and waits until it is ready. The context is for that alone: Close ends it.
func Start(ctx context.Context, options ...Option) (*Client, error) {
	c := New(options...)
	for {
		c.mu.Lock()
		ready, end, changed := c.ready, c.end, c.changed
		c.mu.Unlock()
		if end != nil {
			return nil, end
		}
		if ready != nil {
			return c, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.Kill()
			return nil, ctx.Err()
		}
	}
}

// New starts a daemon and does not wait for it: jobs are taken at once.
func New(options ...Option) *Client {
	c := &Client{
		settings:  defaults(),
		calls:     map[string]*Call{},
		questions: map[string]chan<- HealthReport{},
		changed:   make(chan struct{}),
		stopped:   make(chan struct{}),
	}
	for _, option := range options {
		option(&c.settings)
	}
	c.spawn()
	return c
}

// Ready is what the daemon said when it last got ready: its methods, models and device.
func (c *Client) Ready() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ready == nil {
		return Status{}
	}
	return *c.ready
}

// PID is the daemon's process; 0 while there is none.
func (c *Client) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.daemon == nil {
		return 0
	}
	return c.daemon.command.Process.Pid
}

// Close takes no more jobs, lets the daemon finish those that were submitted, and ends it: after the
// close timeout by SIGTERM, then by SIGKILL of its process group. It returns when the daemon is gone.
func (c *Client) Close() error {
	if d := c.beginClose(); d != nil {
		ctx, cancel := context.WithTimeout(context.Background(), c.settings.closeTimeout)
		defer cancel()
		c.waitDelivered(ctx)
		c.seal()
		d.close(ctx)
	}
	<-c.stopped
	return nil
}

// Kill ends the daemon now, with every process that it started. Open calls fail.
func (c *Client) Kill() {
	c.beginClose()
	c.seal()
	c.mu.Lock()
	d := c.daemon
	c.mu.Unlock()
	if d != nil {
		d.kill()
	}
	<-c.stopped
}

// beginClose returns the daemon to close; nil if there is none or another call closes it.
func (c *Client) beginClose() *daemon {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil
	}
	c.closing = true
	if c.daemon == nil {
		c.finish(ErrClosed)
	}
	c.announce()
	return c.daemon
}

// acceptGrace is how long Close waits for the word that a written job is accepted. A daemon gives it at
// once; one that waits for the end of its input first is given that then.
const acceptGrace = time.Second

// waitDelivered waits until the daemon has every open call, and has accepted it or been silent for the
// grace. A call that was only written may be refused by a full queue, and is sent again then.
func (c *Client) waitDelivered(ctx context.Context) {
	c.waitFor(ctx, c.isWritten)
	ctx, cancel := context.WithTimeout(ctx, acceptGrace)
	defer cancel()
	c.waitFor(ctx, func() bool { return len(c.calls) <= c.accepted })
}

// isWritten is whether every open call is written. It is called with the lock held.
func (c *Client) isWritten() bool {
	for _, call := range c.calls {
		if call.daemon == nil || call.delivering {
			return false
		}
	}
	return true
}

// waitFor waits until the condition holds, which is asked with the lock held, or no job can be sent.
func (c *Client) waitFor(ctx context.Context, condition func() bool) {
	for {
		c.mu.Lock()
		isDone, changed := c.sealed || condition(), c.changed
		c.mu.Unlock()
		if isDone {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// seal says that nothing more is sent: calls that the daemon does not have end here.
func (c *Client) seal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sealed = true
	for _, call := range c.calls {
		if call.daemon == nil {
			call.settle(nil, closed(call.id))
		}
	}
	c.announce()
}

func (c *Client) spawn() {
	command := exec.Command(c.settings.command[0], c.settings.command[1:]...)
	command.Dir, command.Env = c.settings.dir, c.settings.env
	// The lock is held until c.daemon is set, because the first message needs it.
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return
	}
	c.isReady = false
	d, err := startDaemon(command, c.handle, c.settings.onLog, c.handleGone)
	if err != nil {
		c.retry(err)
		return
	}
	c.daemon = d
	c.redeliver()
	c.announce()
}

func (c *Client) handle(message Message) {
	switch message.Type {
	case "status":
		c.handleStatus(message)
	case "accepted":
		c.handleAccepted(message.JobID)
	case "progress":
		c.handleProgress(message)
	case "result":
		// What does not fit is left out: the end of a job counts, whatever else is in it.
		var result Result
		_ = message.Decode(&result)
		c.handleEnd(message.JobID, &result, nil)
	case "error":
		failed := &JobError{JobID: message.JobID}
		_ = message.Decode(&failed.Message)
		c.handleEnd(message.JobID, nil, failed)
	case "health":
		var report HealthReport
		if message.Decode(&report) == nil {
			c.handleHealth(report)
		}
	}
	if c.settings.onMessage != nil {
		c.settings.onMessage(message)
	}
}

func (c *Client) handleStatus(message Message) {
	var status Status
	if message.Decode(&status) != nil || status.Message != "ready" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready, c.isReady, c.failedStarts = &status, true, 0
	c.announce()
}

func (c *Client) handleProgress(message Message) {
	c.mu.Lock()
	call := c.calls[message.JobID]
	c.mu.Unlock()
	var progress Progress
	if call != nil && call.onProgress != nil && message.Decode(&progress) == nil {
		call.onProgress(progress)
	}
}

func (c *Client) handleGone(d *daemon) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.daemon = nil
	c.handleLost(d)
	c.retry(d.err)
}

// retry starts the daemon again later, or gives up. It is called with the lock held.
func (c *Client) retry(err *DaemonGoneError) {
	if !c.isReady {
		c.failedStarts++
	}
	policy := c.settings.restart
	isMissing := errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist)
	// A program that was ready once may work again, as after an upgrade.
	hopeless := c.ready == nil && (isMissing || err.Status == usageStatus)
	if c.closing || hopeless || c.failedStarts >= policy.Attempts {
		c.finish(err)
		return
	}
	delay := policy.Delay
	for i := 0; i < c.failedStarts && delay < policy.MaxDelay; i++ {
		delay *= 2
	}
	if delay > policy.MaxDelay {
		delay = policy.MaxDelay
	}
	time.AfterFunc(delay, c.spawn)
	c.announce()
}

// finish ends the client: no daemon will follow. It is called with the lock held.
func (c *Client) finish(err error) {
	if c.end != nil {
		return
	}
	c.end = err
	for _, call := range c.calls {
		if c.closing {
			call.settle(nil, closed(call.id))
		} else {
			call.settle(nil, err)
		}
	}
	close(c.stopped)
	c.announce()
}

func (c *Client) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}
