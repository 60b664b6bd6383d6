package upscaledhttp

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

const (
	// The server answers, or writes a line, at least every 15 s.
	silence = time.Minute
	// A refusal without a Retry-After.
	defaultWait = time.Second
	// The longest quote of an answer that is no problem document.
	longestQuote = 200
	// Of a refusal.
	problemLimitBytes = 1 << 20
)

// connection sends requests to one server, each again while that may help:
//
//	answered 2xx ──────────────────────────────────────> the response
//	429 ───────────────────────── wait Retry-After ────> again, as often as it takes
//	lost, 408, 502, 503, 504 ──── wait, longer each time > again, Attempts times in a row
//	certificate not trusted ───────────────────────────> *DaemonGoneError
//	anything else ─────────────────────────────────────> *JobError, with the problem's code
type connection struct {
	base   string
	key    string
	policy upscaled.RestartPolicy
	client *http.Client
}

// exchange is one request.
type exchange struct {
	method, path string
	headers      map[string]string
	// Called for each try; nil if there is no body.
	body  func() (io.ReadCloser, error)
	bytes int64
	jobID string
	// A status beside 2xx whose answer is wanted too.
	alsoOK int
	// Called with each refusal. What it returns ends the exchange.
	onRefused func() error
}

func newConnection(address, key string, policy upscaled.RestartPolicy) (*connection, error) {
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" || parsed.User != nil {
		return nil, fmt.Errorf("the URL is %q: give http://HOST:PORT or https://HOST, and the key by WithKey", address)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = silence
	transport.Proxy = nil // as in Node and Python, whose clients use no proxy of the environment
	client := &http.Client{
		Transport: transport,
		// A key goes to the server that it was given for, and to no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	base := parsed.Scheme + "://" + parsed.Host + strings.TrimRight(parsed.EscapedPath(), "/")
	return &connection{base: base, key: key, policy: policy, client: client}, nil
}

// patience counts the failures in a row of one thing that is tried again.
type patience struct {
	policy   upscaled.RestartPolicy
	failures int
}

func (c *connection) patience() *patience { return &patience{policy: c.policy} }

// wait waits before the next try, at least so long. It returns the error if there were too many.
func (p *patience) wait(ctx context.Context, failure error, atLeast time.Duration) error {
	if p.failures >= p.policy.Attempts {
		return failure
	}
	delay := p.policy.Delay
	for i := 0; i < p.failures && delay < p.policy.MaxDelay; i++ {
		delay *= 2
	}
	if delay > p.policy.MaxDelay {
		delay = p.policy.MaxDelay
	}
	p.failures++
	// Clients that lost the same server connect again at different moments.
	delay = time.Duration(float64(delay) * (0.75 + rand.Float64()/2))
	if delay < atLeast {
		delay = atLeast
	}
	return sleep(ctx, delay)
}

// send returns the response, once there is one of 2xx. The error is a *JobError, a *DaemonGoneError, or the context's.
func (c *connection) send(ctx context.Context, x exchange) (*http.Response, error) {
	tries := c.patience()
	for {
		response, err := c.try(ctx, x)
		if ctx.Err() != nil {
			if err == nil {
				response.Body.Close()
			}
			return nil, ctx.Err()
		}
		if own := (*upscaled.JobError)(nil); errors.As(err, &own) {
			return nil, own // the body's own
		}
		if isUntrusted(err) {
			return nil, c.lost(err)
		}
		if err != nil {
			if err = tries.wait(ctx, c.lost(err), 0); err != nil {
				return nil, err
			}
			continue
		}
		if response.StatusCode/100 == 2 || response.StatusCode == x.alsoOK {
			return response, nil
		}
		refused, wait := refusal(response, x.jobID), retryAfter(response)
		if x.onRefused != nil {
			if err := x.onRefused(); err != nil {
				return nil, err
			}
		}
		switch {
		case response.StatusCode == http.StatusTooManyRequests && refused.Retryable():
			if wait < 0 {
				wait = defaultWait
			}
			err = sleep(ctx, wait)
		case mayPass(response.StatusCode) && refused.Retryable():
			err = tries.wait(ctx, refused, wait)
		default:
			err = refused
		}
		if err != nil {
			return nil, err
		}
	}
}

// read is the whole body of the response.
func (c *connection) read(ctx context.Context, x exchange) ([]byte, error) {
	tries := c.patience()
	for {
		response, err := c.send(ctx, x)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil {
			return body, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err = tries.wait(ctx, c.lost(err), 0); err != nil {
			return nil, err
		}
	}
}

func (c *connection) try(ctx context.Context, x exchange) (response *http.Response, failure error) {
	request, err := http.NewRequestWithContext(ctx, x.method, c.base+x.path, nil)
	if err != nil {
		return nil, err
	}
	if x.body != nil {
		opened, err := x.body()
		if err != nil {
			return nil, err
		}
		body := &noted{ReadCloser: opened}
		request.Body, request.ContentLength = body, x.bytes
		defer func() {
			if own := body.err.Load(); failure != nil && own != nil {
				failure = *own // the transport gives its text alone
			}
		}()
	}
	for name, value := range x.headers {
		request.Header.Set(name, value)
	}
	if c.key != "" {
		request.Header.Set("Authorization", "Bearer "+c.key)
	}
	return c.client.Do(request)
}

// noted notes the error of a body.
type noted struct {
	io.ReadCloser
	err atomic.Pointer[error]
}

func (n *noted) Read(piece []byte) (int, error) {
	count, err := n.ReadCloser.Read(piece)
	if err != nil && err != io.EOF {
		n.err.Store(&err)
	}
	return count, err
}

// lost is what a request ends with whose server does not answer.
func (c *connection) lost(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err // without the method and the URL
	}
	return &upscaled.DaemonGoneError{Status: -1, Err: fmt.Errorf("the server %s cannot be reached: %w", c.base, err)}
}

// isUntrusted reports whether the server's certificate is not trusted: the next try would see the same one.
func isUntrusted(err error) bool {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid)
}

// mayPass reports whether a server, or a proxy in front of it, sends this status while the server restarts.
func mayPass(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// refusal is the error for an answer that is no 2xx.
func refusal(response *http.Response, jobID string) *upscaled.JobError {
	body, _ := io.ReadAll(io.LimitReader(response.Body, problemLimitBytes))
	response.Body.Close()
	var problem Problem
	if json.Unmarshal(body, &problem) != nil || problem.Code == "" {
		said := string(bytes.ToValidUTF8(bytes.TrimSpace(body), nil))
		if len(said) > longestQuote {
			said = strings.ToValidUTF8(said[:longestQuote], "")
		}
		if said == "" {
			said = http.StatusText(response.StatusCode)
		}
		problem = Problem{
			Detail:    fmt.Sprintf("the server answered %d: %s", response.StatusCode, said),
			Retryable: mayPass(response.StatusCode) || response.StatusCode == http.StatusTooManyRequests,
		}
	}
	return upscaled.NewJobError(upscaled.ErrorMessage{
		JobID:     jobID,
		Error:     problem.Detail,
		Code:      upscaled.Code(problem.Code),
		Retryable: problem.Retryable,
	}, nil)
}

// retryAfter is when the server wants to be asked again (RFC 9110, section 10.2.3: seconds, or a date); negative if it
// does not say.
func retryAfter(response *http.Response) time.Duration {
	text := response.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(text); err == nil {
		if wait := time.Until(date); wait > 0 {
			return wait
		}
		return 0
	}
	return -1
}

func sleep(ctx context.Context, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
