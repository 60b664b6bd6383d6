// This client's driver for `python -m conformance`: steps on stdin, reports on stdout.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"

	"upscaled"
)

type step struct {
	Do            string   `json:"do"`
	Command       []string `json:"command"`
	CloseTimeoutS float64  `json:"close_timeout_s"`
	Job           job      `json:"job"`
	JobID         string   `json:"job_id"`
	JobIDs        []string `json:"job_ids"`
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
	client  *upscaled.Client
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
	switch s.Do {
	case "start":
		d.client = upscaled.New(
			upscaled.WithCommand(s.Command...),
			upscaled.WithRestart(upscaled.RestartPolicy{}),
			upscaled.WithCloseTimeout(time.Duration(s.CloseTimeoutS*float64(time.Second))),
			upscaled.WithMessages(d.tell),
		)
	case "submit":
		d.submit(s.Job)
	case "cancel":
		d.cancels[s.JobID]()
	case "health":
		go d.answer(d.client.Health(context.Background()))
	case "trim":
		go d.answer(d.client.Trim(context.Background()))
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

func (d *driver) tell(message upscaled.Message) {
	switch message.Type {
	case "status", "accepted", "progress":
		d.report(row{"event": message.Raw})
	}
}

func (d *driver) submit(job job) {
	ctx, cancel := context.WithCancel(context.Background())
	d.cancels[job.JobID] = cancel
	call, err := d.client.Submit(ctx, upscaled.Job{
		JobID:       job.JobID,
		Config:      upscaled.RawConfig{Name: job.Method, JSON: job.Config},
		Priority:    job.Priority,
		TimeoutS:    job.TimeoutS,
		MaxAttempts: job.MaxAttempts,
	})
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

func (d *driver) answer(report *upscaled.HealthReport, err error) {
	if err != nil {
		d.report(row{"did": "ask", "gone": errors.Is(err, upscaled.ErrDaemonGone)})
		return
	}
	d.report(row{"did": "ask", "answer": report})
}

func (d *driver) report(report row) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.out.Encode(report); err != nil {
		panic(err)
	}
}
