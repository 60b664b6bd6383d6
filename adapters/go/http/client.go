// Package upscaledhttp is the client of a server, `upscaled serve`, on this machine or another one. It has the calls of
// the client that starts a daemon:
//
//	client, err := upscaledhttp.Connect(ctx, "http://upscaler:8080", upscaledhttp.WithKey(key))
//	result, err := client.Upscale(ctx, upscaled.Job{Config: upscaled.EsrganConfig{ImagePath: "in.png", OutputPath: "out.png"}})
package upscaledhttp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

// Option is a setting of New and Connect.
type Option func(*settings)

type settings struct {
	key                       string
	retry                     upscaled.RestartPolicy
	closeTimeout, cancelGrace time.Duration
	tempDir                   string
}

// WithKey is one of the server's keys, if it has any.
func WithKey(key string) Option { return func(s *settings) { s.key = key } }

// WithRetry says how often a request is sent again after its connection was lost, or while the server goes down.
// Default: 8 attempts in a row, from 200 ms up to 10 s apart.
func WithRetry(policy upscaled.RestartPolicy) Option { return func(s *settings) { s.retry = policy } }

// WithCloseTimeout is what Close gives the jobs in flight; then they are cancelled. Default: 30 s.
func WithCloseTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.closeTimeout = timeout }
}

// WithCancelGrace is how long a call waits for the end of its job after its context has ended. Default: 25 s.
func WithCancelGrace(timeout time.Duration) Option {
	return func(s *settings) { s.cancelGrace = timeout }
}

// WithTempDir is the directory of a call's Input and Output while it runs. Default: the system's directory for temporary
// files.
func WithTempDir(dir string) Option { return func(s *settings) { s.tempDir = dir } }

// mostJobs is how many jobs run at a time: each has a connection and open files. It is more than a server with some workers
// needs to be busy.
const mostJobs = 64

// Client is a client of one server. Its methods may be called from any goroutine.
type Client struct {
	settings   settings
	connection *connection
	calls      sync.WaitGroup
	// Has an element for each job that runs.
	turns chan struct{}

	mu sync.Mutex
	// Closed when no more calls are taken, and when those that are open are to end.
	closing, killed chan struct{}
}

// New makes a client, and connects to nothing yet.
func New(url string, options ...Option) (*Client, error) {
	s := settings{
		retry:        upscaled.RestartPolicy{Attempts: 8, Delay: 200 * time.Millisecond, MaxDelay: 10 * time.Second},
		closeTimeout: 30 * time.Second,
		cancelGrace:  25 * time.Second,
	}
	for _, option := range options {
		option(&s)
	}
	connection, err := newConnection(url, s.key, s.retry)
	if err != nil {
		return nil, err
	}
	return &Client{
		settings: s, connection: connection, turns: make(chan struct{}, mostJobs),
		closing: make(chan struct{}), killed: make(chan struct{}),
	}, nil
}

// Connect makes a client of a server that has answered, and takes the key. The context is for that alone.
func Connect(ctx context.Context, url string, options ...Option) (*Client, error) {
	client, err := New(url, options...)
	if err != nil {
		return nil, err
	}
	if _, err := client.Health(ctx); err != nil {
		return nil, err
	}
	// Health is answered without a key too.
	if _, err := client.connection.read(ctx, exchange{method: "GET", path: "/api/jobs?limit=1"}); err != nil {
		return nil, err
	}
	return client, nil
}

// Health returns the state of the server and its daemon.
func (c *Client) Health(ctx context.Context) (*Health, error) {
	// A server that drains or has failed answers with 503.
	body, err := c.connection.read(ctx, exchange{method: "GET", path: "/api/health", alsoOK: http.StatusServiceUnavailable})
	if err != nil {
		return nil, err
	}
	health := &Health{}
	if json.Unmarshal(body, health) != nil || health.Status == "" {
		return nil, c.connection.lost(errors.New("its answer is no health report"))
	}
	return health, nil
}

// Upscale runs one job: its picture is uploaded, and the result written to OutputPath, or to the Writer of
// upscaled.Output. The error is a *upscaled.JobError, or a *upscaled.DaemonGoneError if the server cannot be reached any
// more.
//
// When the context ends, the job is cancelled, and Upscale returns when the server reports that it has ended. If the
// result came first, it is returned. If the server does not answer in time, Upscale returns anyway: see WithCancelGrace.
func (c *Client) Upscale(ctx context.Context, job upscaled.Job, options ...upscaled.CallOption) (*upscaled.Result, error) {
	if !c.begin() {
		return nil, closed(job.JobID)
	}
	defer c.calls.Done()
	isNamed := job.JobID != ""
	run := func(ctx context.Context, job upscaled.Job, onProgress func(upscaled.Progress)) (*upscaled.Result, error) {
		return c.run(ctx, job, isNamed, onProgress)
	}
	return upscaled.Transport(run).Upscale(ctx, c.closing, c.settings.tempDir, job, options...)
}

// Close takes no more jobs, waits until those in flight have ended, and after the close timeout cancels what is left.
func (c *Client) Close() error {
	c.end(c.closing)
	timer := time.AfterFunc(c.settings.closeTimeout, func() { c.end(c.killed) })
	defer timer.Stop()
	c.calls.Wait()
	return nil
}

// Kill cancels every job in flight now, and returns when each has ended.
func (c *Client) Kill() {
	c.end(c.closing)
	c.end(c.killed)
	c.calls.Wait()
}

// begin counts a call, if any is taken.
func (c *Client) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closing:
		return false
	default:
		c.calls.Add(1)
		return true
	}
}

func (c *Client) end(what chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-what:
	default:
		close(what)
	}
}

type outcome struct {
	result *upscaled.Result
	err    error
}

func (c *Client) run(ctx context.Context, job upscaled.Job, isNamed bool, onProgress func(upscaled.Progress)) (*upscaled.Result, error) {
	// Not the caller's context: after its end the job's own end is waited for.
	work, stop := context.WithCancel(context.Background())
	defer stop()
	accepted := make(chan struct{})
	remote := &remoteJob{
		connection: c.connection, job: job, isNamed: isNamed, onProgress: onProgress,
		onAccepted: func() { close(accepted) },
	}
	done := make(chan outcome, 1)
	go func() {
		result, err := c.takeTurn(work, remote)
		done <- outcome{result, err}
	}()
	reason := c.waitReason(ctx, job, accepted, done)
	if reason == nil {
		last := <-done
		return last.result, last.err
	}
	if !remote.cancel() {
		stop()
		<-done // nothing is read or written after this
		return nil, reason
	}
	grace := time.NewTimer(c.settings.cancelGrace)
	defer grace.Stop()
	select {
	case last := <-done:
		if errors.Is(last.err, upscaled.CodeCancelled) {
			return nil, reason
		}
		return last.result, last.err
	case <-grace.C:
		stop()
		<-done
		late := reason.Message
		late.Error = fmt.Sprintf("%s; the server did not confirm that within %v", late.Error, c.settings.cancelGrace)
		return nil, upscaled.NewJobError(late, ctx.Err())
	}
}

// takeTurn runs the job as soon as there is a turn for it. The error is the context's if that ends before.
func (c *Client) takeTurn(ctx context.Context, remote *remoteJob) (*upscaled.Result, error) {
	select {
	case c.turns <- struct{}{}:
		defer func() { <-c.turns }()
		return remote.run(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// waitReason waits until the job is done, and puts the outcome back; or until it is to end, and returns why.
func (c *Client) waitReason(ctx context.Context, job upscaled.Job, accepted <-chan struct{}, done chan outcome) *upscaled.JobError {
	limit := time.Duration(job.TimeoutS * float64(time.Second))
	var deadline <-chan time.Time
	start := func() {
		if limit > 0 {
			deadline = time.After(limit)
		}
	}
	start()
	for {
		select {
		case last := <-done:
			done <- last
			return nil
		case <-accepted:
			// Its time counts from now; before that, it bounded the wait for this.
			accepted = nil
			start()
		case <-ctx.Done():
			return newError(job.JobID, upscaled.CodeCancelled, "the job was cancelled", ctx.Err())
		case <-deadline:
			return newError(job.JobID, upscaled.CodeDeadlineExceeded, fmt.Sprintf("timeout_s is over: %v", limit), nil)
		case <-c.killed:
			return closed(job.JobID)
		}
	}
}

func closed(id string) *upscaled.JobError {
	return newError(id, upscaled.CodeShuttingDown, "the client is closed", upscaled.ErrClosed)
}

func newError(id string, code upscaled.Code, sentence string, reason error) *upscaled.JobError {
	message := upscaled.ErrorMessage{JobID: id, Error: sentence, Code: code, Retryable: upscaled.Codes[code]}
	return upscaled.NewJobError(message, reason)
}
