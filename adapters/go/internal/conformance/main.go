// This client's driver for `python -m conformance`: steps on stdin, reports on stdout.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
	upscaledhttp "github.com/upscaled/upscaled/adapters/go/http"
)

// The protocol's limit.
const lineLimitBytes = 32 << 20

type step struct {
	Do            string          `json:"do"`
	Command       []string        `json:"command"`
	URL           string          `json:"url"`
	Key           string          `json:"key"`
	CloseTimeoutS float64         `json:"close_timeout_s"`
	CancelGraceS  float64         `json:"cancel_grace_s"`
	Attempts      int             `json:"attempts"`
	Job           json.RawMessage `json:"job"`
	Spoil         string          `json:"spoil"`
	DeadlineS     float64         `json:"deadline_s"`
	JobID         string          `json:"job_id"`
	JobIDs        []string        `json:"job_ids"`
}

type job struct {
	JobID       string          `json:"job_id"`
	Method      string          `json:"method"`
	Config      json.RawMessage `json:"config"`
	Priority    int             `json:"priority"`
	TimeoutS    float64         `json:"timeout_s"`
	MaxAttempts int             `json:"max_attempts"`
}

type row map[string]any

type driver struct {
	client *upscaled.Client
	// In a case over HTTP, in place of the other.
	remote  *upscaledhttp.Client
	cancels map[string]context.CancelFunc
	calls   sync.WaitGroup
	mu      sync.Mutex
	out     *json.Encoder
}

func main() {
	d := &driver{cancels: map[string]context.CancelFunc{}, out: json.NewEncoder(os.Stdout)}
	steps := json.NewDecoder(os.Stdin)
	for {
		var next step
		if steps.Decode(&next) != nil {
			return
		}
		d.do(next)
	}
}

func (d *driver) do(s step) {
	if s.URL != "" || d.remote != nil {
		d.doRemote(s)
		return
	}
	switch s.Do {
	case "start":
		d.client = upscaled.New(
			upscaled.WithCommand(s.Command...),
			upscaled.WithRestart(upscaled.RestartPolicy{Attempts: s.Attempts}),
			upscaled.WithCloseTimeout(seconds(s.CloseTimeoutS)),
			upscaled.WithCancelGrace(seconds(s.CancelGraceS)),
			upscaled.WithMessages(d.reportEvent),
		)
	case "submit":
		d.submit(s)
	case "cancel":
		d.cancels[s.JobID]()
	case "health":
		d.ask(s, d.client.Health)
	case "trim":
		d.ask(s, d.client.Trim)
	case "replay":
		_ = d.client.Replay(context.Background(), s.JobIDs...)
	case "close":
		_ = d.client.Close()
		d.calls.Wait()
		d.report(row{"did": "close"})
	case "kill":
		d.client.Kill()
		d.calls.Wait()
		d.report(row{"did": "close"})
	}
}

// doRemote does a step of a case over HTTP.
func (d *driver) doRemote(s step) {
	switch s.Do {
	case "start":
		policy := upscaled.RestartPolicy{Attempts: s.Attempts, Delay: time.Millisecond, MaxDelay: time.Second}
		client, err := upscaledhttp.New(s.URL,
			upscaledhttp.WithKey(s.Key),
			upscaledhttp.WithRetry(policy),
			upscaledhttp.WithCloseTimeout(seconds(s.CloseTimeoutS)),
			upscaledhttp.WithCancelGrace(seconds(s.CancelGraceS)),
		)
		if err != nil {
			panic(err)
		}
		d.remote = client
	case "submit":
		var job job
		if err := json.Unmarshal(s.Job, &job); err != nil {
			panic(err)
		}
		ctx, cancel := within(s.DeadlineS)
		d.cancels[job.JobID] = cancel
		d.calls.Add(1)
		go func() {
			defer d.calls.Done()
			progress := upscaled.OnProgress(func(p upscaled.Progress) { d.report(row{"event": p}) })
			result, err := d.remote.Upscale(ctx, spoilt(job, ""), progress)
			d.settled(job.JobID, result, err)
		}()
	case "cancel":
		d.cancels[s.JobID]()
	case "health":
		if health, err := d.remote.Health(context.Background()); err == nil {
			d.report(row{"did": s.Do, "answer": health})
		} else {
			d.report(row{"did": s.Do, "gone": errors.Is(err, upscaled.ErrDaemonGone)})
		}
	case "close":
		_ = d.remote.Close()
		d.calls.Wait()
		d.report(row{"did": "close"})
	}
}

func (d *driver) reportEvent(message upscaled.Message) {
	switch message.Type {
	case "status", "accepted", "progress":
		d.report(row{"event": message.Raw})
	}
}

func (d *driver) submit(s step) {
	var job job
	if json.Unmarshal(s.Job, &job) != nil || job.JobID == "" {
		// A JobID is a string, and an empty one stands for none.
		var id struct {
			JobID any `json:"job_id"`
		}
		_ = json.Unmarshal(s.Job, &id)
		d.report(row{"settled": id.JobID, "cannot": true})
		return
	}
	ctx, cancel := within(s.DeadlineS)
	d.cancels[job.JobID] = cancel
	call, err := d.client.Submit(ctx, spoilt(job, s.Spoil))
	if err != nil {
		d.settled(job.JobID, nil, err)
		return
	}
	d.calls.Add(1)
	go func() {
		defer d.calls.Done()
		result, err := call.Wait(ctx)
		d.settled(job.JobID, result, err)
	}()
}

// spoilt is the job, with what its step says made unfit to be sent.
func spoilt(j job, what string) upscaled.Job {
	job := upscaled.Job{JobID: j.JobID, Priority: j.Priority, TimeoutS: j.TimeoutS, MaxAttempts: j.MaxAttempts}
	if what == "" {
		if j.Method != "" {
			job.Config = upscaled.RawConfig{Name: j.Method, JSON: j.Config}
		}
		return job
	}
	var config upscaled.FakeConfig
	_ = json.Unmarshal(j.Config, &config)
	switch what {
	case "id":
		job.JobID += "\xff"
	case "text":
		config.OutputText += "\xff"
	case "size":
		config.OutputText = strings.Repeat("x", lineLimitBytes)
	case "path":
		config.OutputPath += "\xff"
	case "value":
		config.StepS = math.NaN()
	}
	job.Config = config
	return job
}

func (d *driver) ask(s step, question func(context.Context) (*upscaled.HealthReport, error)) {
	ctx, _ := within(s.DeadlineS)
	go func() {
		report, err := question(ctx)
		switch {
		case err == nil:
			d.report(row{"did": s.Do, "answer": report})
		case errors.Is(err, context.DeadlineExceeded):
			d.report(row{"did": s.Do, "late": true})
		default:
			d.report(row{"did": s.Do, "gone": errors.Is(err, upscaled.ErrDaemonGone)})
		}
	}()
}

func (d *driver) settled(id string, result *upscaled.Result, err error) {
	var failed *upscaled.JobError
	switch {
	case err == nil:
		d.report(row{"settled": id, "result": result})
	case errors.As(err, &failed):
		d.report(row{"settled": id, "error": failed.Message})
	default:
		d.report(row{"settled": id, "gone": errors.Is(err, upscaled.ErrDaemonGone)})
	}
}

func (d *driver) report(report row) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.out.Encode(report); err != nil {
		panic(err)
	}
}

// within is the context of a step: with a deadline if it has one.
func within(deadlineS float64) (context.Context, context.CancelFunc) {
	if deadlineS == 0 {
		return context.WithCancel(context.Background())
	}
	return context.WithTimeout(context.Background(), seconds(deadlineS))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
