package upscaledhttp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

// Of one line of a stream: a job with its warnings.
const eventLimitBytes = 4 << 20

// remoteJob is one job's way over a server:
//
//	POST the picture ──> its events, until one is the last ──> GET the result
//	     │ lost: sent again, under the same key   │ lost: asked for again    │ lost: read on from there
type remoteJob struct {
	connection *connection
	job        upscaled.Job
	isNamed    bool
	onProgress func(upscaled.Progress)
	onAccepted func()

	mu         sync.Mutex
	submission *submission
	// The server's id of the job; empty until its answer came.
	serverID  string
	cancelled bool
}

// run runs it. The error is a *JobError, a *DaemonGoneError, or the context's.
func (r *remoteJob) run(ctx context.Context) (*upscaled.Result, error) {
	_, _, config, err := fieldsOf(r.job)
	if err != nil {
		return nil, err
	}
	destination, err := newDestination(r.job.JobID, config)
	if err != nil {
		return nil, err
	}
	submitted, err := newSubmission(r.job, r.isNamed, destination.format)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.submission = submitted
	r.mu.Unlock()
	raw, err := r.submit(ctx, submitted)
	if err != nil {
		return nil, err
	}
	raw, job, err := r.end(ctx, raw)
	if err != nil {
		return nil, err
	}
	if job.Status != "completed" {
		return nil, r.failure(job)
	}
	// Its fields have the protocol's names.
	result := &upscaled.Result{}
	_ = json.Unmarshal(raw, result)
	result.Type, result.JobID = "result", r.job.JobID
	if job.ResultURL == "" || !destination.isThere() {
		return result, nil
	}
	err = destination.write(job, result, func(to io.Writer) error { return r.download(ctx, job, to) })
	if err != nil {
		return nil, err
	}
	return result, nil
}

// cancel asks the server to end the job; false if the server does not have it, and never will.
func (r *remoteJob) cancel() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancelled = true
	if r.serverID != "" {
		go r.sendCancel(r.serverID)
		return true
	}
	// Once the server has the whole request, its answer has the id to cancel.
	return r.submission != nil && r.submission.sent.Load()
}

func (r *remoteJob) submit(ctx context.Context, s *submission) ([]byte, error) {
	raw, err := r.connection.read(ctx, s.exchange(func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.cancelled {
			return newError(r.job.JobID, upscaled.CodeCancelled, "the job was cancelled", nil)
		}
		return nil
	}))
	if err != nil {
		return nil, err
	}
	job, err := r.parse(raw)
	if err != nil {
		return nil, err
	}
	r.onAccepted()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serverID = job.JobID
	if r.cancelled {
		go r.sendCancel(job.JobID)
	}
	return raw, nil
}

func (r *remoteJob) sendCancel(id string) {
	ctx, stop := context.WithTimeout(context.Background(), silence)
	defer stop()
	// The job's events say how it ended. Without an answer, the call ends after its grace.
	_, _ = r.connection.read(ctx, exchange{method: "POST", path: "/api/jobs/" + id + "/cancel", jobID: r.job.JobID})
}

// end is the job once it has ended.
func (r *remoteJob) end(ctx context.Context, raw []byte) ([]byte, *Job, error) {
	tries := r.connection.patience()
	job, err := r.parse(raw)
	if err != nil || hasEnded(job) {
		return raw, job, err
	}
	path := "/api/jobs/" + job.JobID + "/events"
	for {
		var last []byte
		failure := errors.New("its events end before the job does")
		err := r.stream(ctx, path, func(data []byte) (bool, error) {
			news, err := r.parse(data)
			if err != nil {
				return true, err
			}
			tries.failures = 0
			if hasEnded(news) {
				last, job = data, news
				return true, nil
			}
			if news.Status == "processing" && r.onProgress != nil {
				var progress upscaled.Progress
				_ = json.Unmarshal(data, &progress)
				progress.Type, progress.JobID = "progress", r.job.JobID
				r.onProgress(progress)
			}
			return false, nil
		})
		var refused *upscaled.JobError
		switch {
		case last != nil:
			return last, job, nil
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case errors.As(err, &refused) || errors.Is(err, upscaled.ErrDaemonGone):
			return nil, nil, err
		case err != nil:
			failure = err
		}
		if err := tries.wait(ctx, r.connection.lost(failure), 0); err != nil {
			return nil, nil, err
		}
	}
}

// stream passes on the data of each server-sent event (WHATWG HTML, section 9.2), until handle says that it was the last.
func (r *remoteJob) stream(ctx context.Context, path string, handle func([]byte) (bool, error)) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	headers := map[string]string{"Accept": "text/event-stream"}
	response, err := r.connection.send(ctx, exchange{method: "GET", path: path, headers: headers, jobID: r.job.JobID})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	timer := time.AfterFunc(silence, stop)
	defer timer.Stop()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, eventLimitBytes)
	var data []byte
	for lines.Scan() {
		timer.Reset(silence)
		line := bytes.TrimSuffix(lines.Bytes(), []byte("\r"))
		switch {
		case bytes.HasPrefix(line, []byte("data:")):
			if len(data) > 0 {
				data = append(data, '\n')
			}
			data = append(data, bytes.TrimPrefix(line[len("data:"):], []byte(" "))...)
		case len(line) == 0 && len(data) > 0:
			if isLast, err := handle(data); isLast {
				return err
			}
			data = nil
		}
	}
	return lines.Err()
}

// download writes all bytes of the result. If a connection ends, the next one continues at that byte.
func (r *remoteJob) download(ctx context.Context, job *Job, to io.Writer) error {
	tries := r.connection.patience()
	var at int64
	etag := ""
	for {
		headers := map[string]string{}
		if at > 0 {
			headers["Range"], headers["If-Range"] = fmt.Sprintf("bytes=%d-", at), etag
		}
		response, err := r.connection.send(ctx, exchange{method: "GET", path: "/api/results/" + job.JobID, headers: headers, jobID: r.job.JobID})
		if err != nil {
			return err
		}
		if at > 0 && response.StatusCode != http.StatusPartialContent {
			response.Body.Close()
			return newError(r.job.JobID, upscaled.CodeInternal, "the server changed the result while it was read", nil)
		}
		etag = response.Header.Get("ETag")
		count, err := io.Copy(to, response.Body)
		response.Body.Close()
		at += count
		var failed *upscaled.JobError
		switch {
		case errors.As(err, &failed): // the disk's
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && (job.FileSizeBytes == nil || at >= int64(*job.FileSizeBytes)):
			return nil
		case err == nil:
			err = io.ErrUnexpectedEOF
		}
		if count > 0 {
			tries.failures = 0
		}
		if err := tries.wait(ctx, r.connection.lost(err), 0); err != nil {
			return err
		}
	}
}

func (r *remoteJob) failure(job *Job) error {
	message := upscaled.ErrorMessage{JobID: r.job.JobID, Error: job.Error, Code: upscaled.Code(job.Code), Attempt: job.Attempt}
	if message.Error == "" {
		message.Error = "the job " + job.Status
	}
	if message.Code == "" {
		message.Code = upscaled.Code(job.Status)
	}
	message.Retryable = job.Retryable != nil && *job.Retryable
	return upscaled.NewJobError(message, nil)
}

// parse reads a job, which may have fields that we do not know.
func (r *remoteJob) parse(raw []byte) (*Job, error) {
	job := &Job{}
	if err := json.Unmarshal(raw, job); err != nil || job.JobID == "" {
		return nil, newError(r.job.JobID, upscaled.CodeInternal, "the server answered with no job", err)
	}
	return job, nil
}

func hasEnded(job *Job) bool {
	return job.Status == "completed" || job.Status == "failed" || job.Status == "cancelled"
}
