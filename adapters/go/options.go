package upscaled

import (
	"io"
	"time"
)

// Option is a setting of Start.
type Option func(*settings)

type settings struct {
	command      []string
	dir          string
	env          []string
	restart      RestartPolicy
	closeTimeout time.Duration
	cancelGrace  time.Duration
	onLog        func(LogRecord)
	onMessage    func(Message)
	tempDir      string
}

// RestartPolicy says when a daemon that died is started again.
type RestartPolicy struct {
	// Attempts is how many starts in a row may fail before it is given up; 0: no second start. As many
	// daemons may end with one job in hand that they had not accepted.
	Attempts int
	// Delay goes before the first new start. It doubles with each that fails, up to MaxDelay.
	Delay, MaxDelay time.Duration
}

func defaults() settings {
	return settings{
		command:      []string{"upscaled", "run"},
		restart:      RestartPolicy{Attempts: 5, Delay: 200 * time.Millisecond, MaxDelay: 10 * time.Second},
		closeTimeout: 30 * time.Second,
		// The daemon needs up to 20 s (--cancel-grace-s), and some more to kill a worker.
		cancelGrace: 25 * time.Second,
	}
}

// WithCommand is the daemon. Default: upscaled run.
func WithCommand(command ...string) Option { return func(s *settings) { s.command = command } }

// WithArgs adds arguments, as in "--workers", "2".
func WithArgs(args ...string) Option {
	return func(s *settings) { s.command = append(s.command[:len(s.command):len(s.command)], args...) }
}

// WithDir is the daemon's working directory. Default: the host's.
func WithDir(dir string) Option { return func(s *settings) { s.dir = dir } }

// WithEnv is the daemon's environment. Default: the host's.
func WithEnv(env ...string) Option { return func(s *settings) { s.env = env } }

// WithRestart sets the policy. Default: 5 attempts, from 200 ms up to 10 s apart.
func WithRestart(policy RestartPolicy) Option { return func(s *settings) { s.restart = policy } }

// WithCloseTimeout is what Close gives the jobs in flight. Default: 30 s.
func WithCloseTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.closeTimeout = timeout }
}

// WithCancelGrace is how long a call waits for the daemon's answer to its cancel. After that it ends
// without one, and the job's output may still be written. Default: 25 s.
func WithCancelGrace(timeout time.Duration) Option {
	return func(s *settings) { s.cancelGrace = timeout }
}

// WithLog has every line of the daemon's stderr. It must not block.
func WithLog(log func(LogRecord)) Option { return func(s *settings) { s.onLog = log } }

// WithMessages has every message of the daemon, in order. It must not block.
func WithMessages(handle func(Message)) Option { return func(s *settings) { s.onMessage = handle } }

// WithTempDir is the directory of a call's Input and Output while it runs. Default: the system's directory for temporary
// files. A daemon with --allow-root needs one of its roots here.
func WithTempDir(dir string) Option { return func(s *settings) { s.tempDir = dir } }

// CallOption is a setting of one call.
type CallOption func(*Call)

// OnProgress has the job's progress, in order, before the call returns. It must not block.
func OnProgress(handle func(Progress)) CallOption { return func(c *Call) { c.onProgress = handle } }

// Input is the picture, instead of the config's ImagePath. Submit reads it to its end before it writes the job.
func Input(picture io.Reader) CallOption { return func(c *Call) { c.needFiles().input = picture } }

// Output gets the picture, instead of the config's OutputPath, before the call ends; its format is OutputFormat. A Writer
// that blocks holds the call.
func Output(picture io.Writer) CallOption { return func(c *Call) { c.needFiles().output = picture } }

func (call *Call) needFiles() *files {
	if call.files == nil {
		call.files = &files{}
	}
	return call.files
}

// Ptr is for fields of which zero says something: EsrganConfig{UseFP16: upscaled.Ptr(false)}.
func Ptr[T any](value T) *T { return &value }
