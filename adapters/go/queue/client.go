// Package upscaledqueue gives jobs to the queue of a fleet, Celery on Redis, and reads their ends. The machines of the
// fleet run `upscaled work`:
//
//	client, err := upscaledqueue.Open(ctx, "redis://queue:6379/0")
//	id, err := client.Submit(ctx, upscaled.Job{Config: upscaled.EsrganConfig{ImageURL: in, OutputURL: out}})
//	result, err := client.End(ctx, id)
package upscaledqueue

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

const (
	// As long as the machines keep the end of a job by default.
	defaultKeep = 7 * 24 * time.Hour
	// Between two looks at a record: short jobs are seen soon, and long ones cost one question per second.
	firstPause   = 20 * time.Millisecond
	longestPause = time.Second
)

// give puts a message into its list and marks the job as given, in one step. It does nothing if the job was given before, so
// it may be sent again after its answer was lost.
//
// KEYS: record, job, list. ARGV: message, time, seconds to keep the mark.
const give = `
if redis.call('EXISTS', KEYS[1]) == 1 or redis.call('HEXISTS', KEYS[2], 'given_at') == 1 then
  return 0
end
redis.call('LPUSH', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[2], 'given_at', ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
`

// cancel marks a job that has no end, and tells the machines. It answers with 1, or with 0 if the job has an end.
//
// KEYS: record, job. ARGV: id, seconds to keep the mark.
const cancel = `
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[2], 'cancelled', '1')
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', 'upscaled:cancel', ARGV[1])
return 1
`

// Option is a setting of Open.
type Option func(*settings)

type settings struct {
	prefix string
	keep   time.Duration
	tls    *tls.Config
}

// WithPrefix is the --queue-prefix of the machines. Default: none.
func WithPrefix(prefix string) Option { return func(s *settings) { s.prefix = prefix } }

// WithKeep is how long Redis remembers that a job was given or cancelled. Default: 7 days, as the machines keep its end.
func WithKeep(keep time.Duration) Option { return func(s *settings) { s.keep = keep } }

// WithTLS is for a rediss:// URL whose certificate is not of a known authority, or that wants one of the client.
func WithTLS(config *tls.Config) Option { return func(s *settings) { s.tls = config } }

// SubmitOption is a setting of one job.
type SubmitOption func(*submitSettings)

type submitSettings struct {
	webhookURL string
}

// WithWebhook has the end of the job sent to a URL, if the machines allow its host. The URL's query may hold a token: it is
// in no log and in no event.
func WithWebhook(url string) SubmitOption { return func(s *submitSettings) { s.webhookURL = url } }

// Client is a client of one queue. Its methods may be called from any goroutine.
type Client struct {
	settings settings
	redis    *pool
}

// Open connects to redis://[USER:PASSWORD@]HOST[:PORT][/DB], or to rediss:// over TLS. It refuses a Redis that evicts keys,
// because it would lose jobs. The context is for that alone: Close ends the client.
func Open(ctx context.Context, url string, options ...Option) (*Client, error) {
	s := settings{keep: defaultKeep}
	for _, option := range options {
		option(&s)
	}
	if s.keep < time.Second {
		return nil, fmt.Errorf("WithKeep(%s) is too short: give at least 1s", s.keep)
	}
	address, err := readAddress(url)
	if err != nil {
		return nil, err
	}
	c := &Client{settings: s, redis: &pool{address: address, tls: s.tls}}
	if err := c.checkServer(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Submit puts the job into the queue of its method and returns its id. Without a JobID the job gets one. A job whose id was
// given before is left as it is, so after an error the same job may be submitted again, under the id that came with the
// error. A job that no machine would take is refused as a *upscaled.JobError.
func (c *Client) Submit(ctx context.Context, job upscaled.Job, options ...SubmitOption) (id string, err error) {
	var s submitSettings
	for _, option := range options {
		option(&s)
	}
	// It has the checks of what cannot be sent.
	submit := upscaled.Transport(func(ctx context.Context, job upscaled.Job, _ func(upscaled.Progress)) (*upscaled.Result, error) {
		id = job.JobID
		return nil, c.put(ctx, job, s)
	})
	_, err = submit.Upscale(ctx, nil, "", job)
	return id, err
}

// End waits for the end of a job: its result, or a *upscaled.JobError if it ended with an error. It waits while Redis is
// away, and for a job that was never given, until the context ends. That does not cancel the job.
func (c *Client) End(ctx context.Context, id string) (*upscaled.Result, error) {
	for pause := firstPause; ; pause *= 2 {
		record, err := c.redis.do(ctx, "GET", "upscaled:record:"+id)
		switch {
		case err == nil && record != nil:
			return readEnd(id, []byte(*record))
		case ctx.Err() != nil:
			return nil, fmt.Errorf("job %s has no end yet: %w", id, ctx.Err())
		case err != nil && !isOutage(err):
			return nil, err
		}
		if pause > longestPause {
			pause = longestPause
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return nil, fmt.Errorf("job %s has no end yet: %w (%v)", id, ctx.Err(), err)
			}
			return nil, fmt.Errorf("job %s has no end yet: %w", id, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// Cancel has the job end as cancelled: a job that waits when a machine takes it, a running one at once. It is false if the
// job has ended. It does not wait: End does, and returns upscaled.CodeCancelled, or the result if that came first.
func (c *Client) Cancel(ctx context.Context, id string) (bool, error) {
	answer, err := c.redis.do(ctx, "EVAL", cancel, "2", "upscaled:record:"+id, "upscaled:job:"+id, id, c.keepS())
	return answer != nil && *answer == "1", err
}

// Close closes the connections to Redis. Jobs are not affected.
func (c *Client) Close() { c.redis.close() }

// put is Submit for a job that can be sent.
func (c *Client) put(ctx context.Context, job upscaled.Job, s submitSettings) error {
	line, err := job.MarshalJSON()
	if err != nil {
		return err
	}
	if err := checkQueued(job, line); err != nil {
		return err
	}
	if s.webhookURL != "" {
		if line, err = withField(line, "webhook_url", s.webhookURL); err != nil {
			return err
		}
	}
	now := float64(time.Now().UnixMicro()) / 1e6
	list, message, err := celeryMessage(c.settings.prefix+job.Config.Method(), job, line, now)
	if err != nil {
		return err
	}
	givenAt := strconv.FormatFloat(now, 'f', -1, 64)
	keys := []string{"upscaled:record:" + job.JobID, "upscaled:job:" + job.JobID, list}
	_, err = c.redis.do(ctx, "EVAL", give, "3", keys[0], keys[1], keys[2], message, givenAt, c.keepS())
	return err
}

// withField is the job's line with one field more, which the protocol does not have.
func withField(line []byte, name, value string) ([]byte, error) {
	text, err := json.Marshal(map[string]string{name: value})
	if err != nil {
		return nil, err
	}
	// A job always has fields: its id and its config.
	return append(append(line[:len(line)-1:len(line)-1], ','), text[1:]...), nil
}

func (c *Client) keepS() string { return strconv.Itoa(int(c.settings.keep.Seconds())) }

// checkServer refuses a Redis that evicts keys.
func (c *Client) checkServer(ctx context.Context) error {
	// Not CONFIG GET, which hosted servers refuse.
	info, err := c.redis.do(ctx, "INFO", "memory")
	if err != nil || info == nil {
		return err
	}
	for _, line := range strings.Split(*info, "\n") {
		name, policy, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "maxmemory_policy" && policy != "noeviction" {
			return fmt.Errorf("the Redis at %s would lose jobs when its memory is full, because its maxmemory-policy is %s: "+
				"set maxmemory-policy to noeviction", c.redis.address, policy)
		}
	}
	return nil
}

// checkQueued refuses what no machine takes.
func checkQueued(job upscaled.Job, line []byte) error {
	method := job.Config.Method()
	isKnown := false
	known := []string{}
	for _, one := range []upscaled.Config{upscaled.EsrganConfig{}, upscaled.FluxConfig{}, upscaled.ImagenConfig{}, upscaled.FaceConfig{}, upscaled.FakeConfig{}} {
		known = append(known, one.Method())
		isKnown = isKnown || one.Method() == method
	}
	if !isKnown {
		return refused(job, upscaled.CodeUnknownMethod, fmt.Sprintf("the method %q is not known; known: %s", method, strings.Join(known, ", ")))
	}
	var asks struct {
		Config struct {
			OutputBase64 bool `json:"output_base64"`
		} `json:"config"`
	}
	// A config that cannot be read so is refused by the machine, which names the field.
	if err := json.Unmarshal(line, &asks); err == nil && asks.Config.OutputBase64 {
		return refused(job, upscaled.CodeInvalidJob, "output_base64 is not for a queue, because records hold no pictures: give output_path")
	}
	return nil
}

func refused(job upscaled.Job, code upscaled.Code, sentence string) error {
	message := upscaled.ErrorMessage{JobID: job.JobID, Error: sentence, Code: code, Retryable: upscaled.Codes[code]}
	return upscaled.NewJobError(message, nil)
}

// readEnd reads the terminal event of a job.
func readEnd(id string, event []byte) (*upscaled.Result, error) {
	var message upscaled.Message
	err := json.Unmarshal(event, &message)
	switch {
	case err == nil && message.Type == "result":
		var result upscaled.Result
		if err = json.Unmarshal(event, &result); err == nil {
			return &result, nil
		}
	case err == nil && message.Type == "error":
		var failed upscaled.ErrorMessage
		if err = json.Unmarshal(event, &failed); err == nil {
			return nil, upscaled.NewJobError(failed, nil)
		}
	case err == nil:
		err = fmt.Errorf("its type is %q", message.Type)
	}
	return nil, fmt.Errorf("the record of job %s is no end of a job: %w", id, err)
}
