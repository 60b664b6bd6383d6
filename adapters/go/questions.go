package upscaled

import (
	"context"
	"errors"
	"strconv"
)

// Health returns the daemon's state. A question that finds no daemon, because the last one has exited, is for the next one.
// It fails when the context ends before the answer.
func (c *Client) Health(ctx context.Context) (*HealthReport, error) {
	id, answer := c.newQuestion()
	return c.ask(ctx, id, Health{Type: "health", RequestID: id}, answer)
}

// Trim has the daemon free its caches and the models that no job is using. It returns when the context
// ends, if no answer came before.
func (c *Client) Trim(ctx context.Context) (*HealthReport, error) {
	id, answer := c.newQuestion()
	return c.ask(ctx, id, Trim{Type: "trim", RequestID: id}, answer)
}

// Replay has a daemon with a journal say again how these jobs ended, or all; see WithMessages.
func (c *Client) Replay(ctx context.Context, jobIDs ...string) error {
	d, err := c.next(ctx)
	if err != nil {
		return err
	}
	for _, id := range jobIDs {
		if err := checkText(id, "a job_id"); err != nil {
			return localError(id, CodeInvalidJob, err.Error(), nil)
		}
	}
	return c.send(ctx, d, Replay{Type: "replay", JobIDs: jobIDs})
}

func (c *Client) ask(ctx context.Context, id string, question any, answer <-chan HealthReport) (*HealthReport, error) {
	defer c.forgetQuestion(id)
	d, err := c.next(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.send(ctx, d, question); err != nil {
		return nil, err
	}
	select {
	case report := <-answer:
		return &report, nil
	case <-d.gone:
		return nil, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *Client) send(ctx context.Context, d *daemon, message any) error {
	err := d.channel.Send(ctx.Done(), message)
	if errors.Is(err, errStopped) {
		return ctx.Err()
	}
	return err
}

// next is the daemon; if there is none, the one that is started next.
func (c *Client) next(ctx context.Context) (*daemon, error) {
	for {
		c.mu.Lock()
		d, end, isClosing, changed := c.daemon, c.end, c.closing, c.changed
		c.mu.Unlock()
		switch {
		case isClosing:
			return nil, ErrClosed
		case end != nil:
			return nil, end
		case d != nil:
			return d, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// newQuestion returns a new request_id and the channel that gets its answer.
func (c *Client) newQuestion() (string, <-chan HealthReport) {
	answer := make(chan HealthReport, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	id := strconv.Itoa(c.asked)
	c.questions[id] = answer
	return id, answer
}

func (c *Client) forgetQuestion(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.questions, id)
}

func (c *Client) handleHealth(report HealthReport) {
	c.mu.Lock()
	answer := c.questions[report.RequestID]
	delete(c.questions, report.RequestID)
	c.mu.Unlock()
	if answer != nil {
		answer <- report
	}
}
