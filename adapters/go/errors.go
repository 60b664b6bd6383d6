package upscaled

import (
	"errors"
	"fmt"
	"os/exec"
)

// ErrDaemonGone is what a DaemonGoneError is, for errors.Is.
var ErrDaemonGone = errors.New("the daemon is gone")

// ErrClosed is returned by a client that was closed.
var ErrClosed = errors.New("the client is closed")

// Code says why a job ended without a result, for programs: errors.Is(err, upscaled.CodeCancelled).
// A later daemon may have codes that are not in Codes: go by JobError.Retryable then.
type Code string

func (c Code) Error() string { return string(c) }

// JobError is how a job ends without a result. It is its Code for errors.Is and errors.As; and, if the reason lies in
// this process, that reason's error too: of the context that ended the job, of a Marshaler in the config.
type JobError struct {
	// Message is the daemon's: the cause, the attempt and the traceback are there.
	Message ErrorMessage
	JobID   string
	reason  error
}

func (e *JobError) Error() string {
	text := e.Message.Error
	if e.JobID != "" {
		text = fmt.Sprintf("job %s: %s", e.JobID, text)
	}
	if e.Message.Code != "" {
		text += fmt.Sprintf(" (%s)", e.Message.Code)
	}
	return text
}

// Unwrap is the error's Code.
func (e *JobError) Unwrap() error { return e.Message.Code }

// Is reports whether the target is the cause, if the cause is in this process.
func (e *JobError) Is(target error) bool { return e.reason != nil && errors.Is(e.reason, target) }

// As finds the cause, if it is in this process.
func (e *JobError) As(target any) bool { return e.reason != nil && errors.As(e.reason, target) }

// Retryable reports whether the same job may succeed later.
func (e *JobError) Retryable() bool { return e.Message.Retryable }

// localError is the error of a job that never reached the daemon.
func localError(id string, code Code, sentence string, reason error) *JobError {
	message := ErrorMessage{Type: "error", JobID: id, Error: sentence, Code: code, Retryable: Codes[code]}
	return &JobError{Message: message, JobID: id, reason: reason}
}

// DaemonGoneError is how a call ends when the daemon went away, or cannot be started. The job may
// have run or not.
type DaemonGoneError struct {
	// Status is the exit status; -1 if a signal ended the daemon, or if it never ran.
	Status int
	// LastWords is the end of what it wrote to stderr.
	LastWords string
	// Err is the operating system's.
	Err error
}

func (e *DaemonGoneError) Error() string {
	if errors.Is(e.Err, exec.ErrNotFound) {
		return fmt.Sprintf("the daemon cannot be started: %v: install upscaled, or name its program by WithCommand", e.Err)
	}
	text := fmt.Sprintf("the daemon is gone: %v", e.Err)
	if e.LastWords != "" {
		text += "; its log ended with:\n" + e.LastWords
	}
	return text
}

// Is makes it an ErrDaemonGone.
func (e *DaemonGoneError) Is(target error) bool { return target == ErrDaemonGone }

// Unwrap is the operating system's error.
func (e *DaemonGoneError) Unwrap() error { return e.Err }
