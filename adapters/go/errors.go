package upscaled

import (
	"errors"
	"fmt"
)

// ErrDaemonGone is what a DaemonGoneError is, for errors.Is.
var ErrDaemonGone = errors.New("the daemon is gone")

// ErrClosed is returned by a client that was closed.
var ErrClosed = errors.New("the client is closed")

// Code says why a job ended without a result, for programs: errors.Is(err, upscaled.CodeCancelled).
// A later daemon may have codes that are not in Codes: go by JobError.Retryable then.
type Code string

func (c Code) Error() string { return string(c) }

// JobError is how a job ends without a result. It is its Code, and, where a context ended it, that
// context's error too, for errors.Is.
type JobError struct {
	// Message is the daemon's: the cause, the attempt and the traceback are there.
	Message ErrorMessage
	JobID   string
	context error
}

func (e *JobError) Error() string {
	return fmt.Sprintf("job %s: %s (%s)", e.JobID, e.Message.Error, e.Message.Code)
}

// Unwrap is the error's Code.
func (e *JobError) Unwrap() error { return e.Message.Code }

// Is tells whether it was a context's end that ended the job.
func (e *JobError) Is(target error) bool { return e.context != nil && errors.Is(e.context, target) }

// Retryable tells whether the same job may succeed later.
func (e *JobError) Retryable() bool { return e.Message.Retryable }

// localError is what the daemon would have said, of a job that never got to it.
func localError(id string, code Code, sentence string, context error) *JobError {
	message := ErrorMessage{Type: "error", JobID: id, Error: sentence, Code: code, Retryable: Codes[code]}
	return &JobError{Message: message, JobID: id, context: context}
}

// DaemonGoneError is how a call ends when the daemon went away, or cannot be started. The job may
// have run or not.
type DaemonGoneError struct {
	// Status is the exit status; -1 where a signal ended it, or where it never ran.
	Status int
	// LastWords is the end of what it wrote to stderr.
	LastWords string
	// Err is the operating system's.
	Err error
}

func (e *DaemonGoneError) Error() string {
	text := fmt.Sprintf("the daemon is gone: %v", e.Err)
	if e.LastWords != "" {
		text += "; its last words:\n" + e.LastWords
	}
	return text
}

// Is makes it an ErrDaemonGone.
func (e *DaemonGoneError) Is(target error) bool { return target == ErrDaemonGone }

// Unwrap is the operating system's error.
func (e *DaemonGoneError) Unwrap() error { return e.Err }
