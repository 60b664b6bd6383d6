// Package upscaled starts the upscale daemon, gives it jobs, and starts it again where it dies.
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

// Client is a daemon of one's own. Its methods may be called from any goroutine.
type Client struct {
	settings settings
	// Held while a question is open: an answer does not say what it answers.
	asking chan struct{}

	mu     sync.Mutex
	calls  map[string]*Call
	daemon *daemon
	answer chan HealthReport
	// changed is closed, and made anew, whenever one of these changes.
	changed      chan struct{}
	ready        *Status
	isReady      bool
	closing      bool
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
		settings: defaults(),
		asking:   make(chan struct{}, 1),
		calls:    map[string]*Call{},
		changed:  make(chan struct{}),
		stopped:  make(chan struct{}),
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

// Health tells how the daemon is.
func (c *Client) Health(ctx context.Context) (*HealthReport, error) {
	return c.ask(ctx, Health{Type: "health"})
}

// Trim has the daemon free its caches and the models that no job is using.
func (c *Client) Trim(ctx context.Context) (*HealthReport, error) {
	return c.ask(ctx, Trim{Type: "trim"})
}

// Replay has a daemon with a journal say again how these jobs ended, or all; see WithMessages.
func (c *Client) Replay(ctx context.Context, jobIDs ...string) error {
	d, err := c.current()
	if err != nil {
		return err
	}
	return d.channel.Send(ctx.Done(), Replay{Type: "replay", JobIDs: jobIDs})
}

// Close takes no more jobs, lets the daemon finish those that it has, and ends it: after the close
// timeout by SIGTERM, then by SIGKILL of its process group. It returns when the daemon is gone.
func (c *Client) Close() error {
	if d := c.beginClose(); d != nil {
		d.close(c.settings.closeTimeout)
	}
	<-c.stopped
	return nil
}

// Kill ends the daemon now, with every process that it started. Open calls fail.
func (c *Client) Kill() {
	c.beginClose()
	c.mu.Lock()
	d := c.daemon
	c.mu.Unlock()
	if d != nil {
		d.kill()
	}
	<-c.stopped
}

// beginClose returns the daemon that is to be closed, where there is one and nobody else does it.
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

func (c *Client) current() (*daemon, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing:
		return nil, ErrClosed
	case c.end != nil:
		return nil, c.end
	case c.daemon == nil:
		return nil, ErrDaemonGone
	}
	return c.daemon, nil
}

func (c *Client) ask(ctx context.Context, question any) (*HealthReport, error) {
	select {
	case c.asking <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	d, err := c.current()
	if err != nil {
		<-c.asking
		return nil, err
	}
	answer := make(chan HealthReport, 1)
	c.mu.Lock()
	c.answer = answer
	c.mu.Unlock()
	if err := d.channel.Send(ctx.Done(), question); err != nil {
		<-c.asking
		if errors.Is(err, errStopped) {
			err = ctx.Err()
		}
		return nil, err
	}
	select {
	case report := <-answer:
		<-c.asking
		return &report, nil
	case <-d.gone:
		<-c.asking
		return nil, d.err
	case <-ctx.Done():
		// The answer still comes, and must not pass for the next one's.
		go func() {
			select {
			case <-answer:
			case <-d.gone:
			}
			<-c.asking
		}()
		return nil, ctx.Err()
	}
}

func (c *Client) spawn() {
	command := exec.Command(c.settings.command[0], c.settings.command[1:]...)
	command.Dir, command.Env = c.settings.dir, c.settings.env
	// Held meanwhile: the first message must find the daemon in its place.
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
	c.announce()
}

func (c *Client) handle(message Message) {
	switch message.Type {
	case "status":
		c.handleStatus(message)
	case "progress":
		c.handleProgress(message)
	case "result":
		// What does not fit is left out: the end of a job counts, whatever else is in it.
		var result Result
		_ = message.Decode(&result)
		c.settle(message.JobID, &result, nil)
	case "error":
		failed := &JobError{JobID: message.JobID}
		_ = message.Decode(&failed.Message)
		c.settle(message.JobID, nil, failed)
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

func (c *Client) handleHealth(report HealthReport) {
	c.mu.Lock()
	answer := c.answer
	c.answer = nil
	c.mu.Unlock()
	if answer != nil {
		answer <- report
	}
}

func (c *Client) handleGone(d *daemon) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.daemon = nil
	for _, call := range c.calls {
		if call.daemon == d {
			call.settle(nil, d.err)
		}
	}
	c.retry(d.err)
}

// retry starts the daemon again later, or gives up. It is called with the lock held.
func (c *Client) retry(err *DaemonGoneError) {
	if !c.isReady {
		c.failedStarts++
	}
	policy := c.settings.restart
	hopeless := err.Status == usageStatus || errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist)
	if c.closing || hopeless || c.failedStarts >= policy.Attempts {
		c.finish(err)
		return
	}
	delay := policy.MaxDelay
	if doubled := policy.Delay << c.failedStarts; doubled < delay {
		delay = doubled
	}
	time.AfterFunc(delay, c.spawn)
	c.announce()
}

// finish is the end: nothing more will be done. It is called with the lock held.
func (c *Client) finish(err error) {
	if c.end == nil {
		c.end = err
		close(c.stopped)
		c.announce()
	}
}

func (c *Client) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}
