package upscaled_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

// beADaemon writes each picture backwards. The result's device names the way by which it came.
func beADaemon() {
	say := json.NewEncoder(os.Stdout)
	_ = say.Encode(upscaled.Status{Type: "status", Message: "ready"})
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 32<<20)
	for lines.Scan() {
		var job struct {
			JobID  string `json:"job_id"`
			Method string `json:"method"`
			Config struct {
				ImagePath   string `json:"image_path"`
				ImageBase64 []byte `json:"image_base64"`
				OutputPath  string `json:"output_path"`
				Model       string `json:"model"`
			} `json:"config"`
		}
		if json.Unmarshal(lines.Bytes(), &job) != nil || job.Method == "" {
			continue
		}
		picture, way := job.Config.ImageBase64, "line"
		if job.Config.ImagePath != "" {
			picture, _ = os.ReadFile(job.Config.ImagePath)
			way = "file"
		}
		switch job.Config.Model {
		case "hang":
			_ = say.Encode(upscaled.Accepted{Type: "accepted", JobID: job.JobID})
			continue
		case "die":
			os.Exit(3)
		case "fail":
			_ = say.Encode(upscaled.ErrorMessage{Type: "error", JobID: job.JobID, Error: "no", Code: upscaled.CodeInputUnreadable})
			continue
		}
		_ = os.WriteFile(job.Config.OutputPath, backwards(picture), 0o600)
		_ = say.Encode(upscaled.Result{Type: "result", JobID: job.JobID, OutputPath: job.Config.OutputPath, Device: way})
	}
}

func backwards(picture []byte) []byte {
	turned := make([]byte, len(picture))
	for i, b := range picture {
		turned[len(picture)-1-i] = b
	}
	return turned
}

var (
	small = []byte("picture")
	large = bytes.Repeat([]byte("0123456789"), 300_000)
)

// startBackwards is a client of such a daemon, and the folder in which its calls have their files.
func startBackwards(t *testing.T) (*upscaled.Client, string) {
	t.Helper()
	folder := t.TempDir()
	client, err := upscaled.Start(bounded(t),
		upscaled.WithCommand(os.Args[0]), upscaled.WithEnv(append(os.Environ(), "UPSCALED_TEST_DAEMON=1")...),
		upscaled.WithTempDir(folder), upscaled.WithCancelGrace(20*time.Millisecond), upscaled.WithCloseTimeout(20*time.Millisecond),
		upscaled.WithRestart(upscaled.RestartPolicy{Attempts: 2}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, folder
}

func checkEmpty(t *testing.T, folder string) {
	t.Helper()
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestAReaderGoesInAndAWriterGetsThePicture(t *testing.T) {
	t.Parallel()
	client, folder := startBackwards(t)
	for way, picture := range map[string][]byte{"line": small, "file": large} {
		for _, config := range []upscaled.Config{
			upscaled.EsrganConfig{}, &upscaled.EsrganConfig{Model: "any"}, upscaled.RawConfig{Name: "esrgan", JSON: json.RawMessage(`{"a":1} `)},
		} {
			var output bytes.Buffer
			result, err := client.Upscale(bounded(t), upscaled.Job{Config: config},
				upscaled.Input(iotest.HalfReader(bytes.NewReader(picture))), upscaled.Output(&output))
			if err != nil || result.Device != way || result.OutputPath != "" {
				t.Fatalf("%+v, %v", result, err)
			}
			if !bytes.Equal(output.Bytes(), backwards(picture)) {
				t.Error("another picture came back")
			}
		}
	}
	checkEmpty(t, folder)

	// A path goes with either.
	path := filepath.Join(t.TempDir(), "own")
	job := upscaled.Job{Config: upscaled.EsrganConfig{OutputPath: path}}
	if _, err := client.Upscale(bounded(t), job, upscaled.Input(bytes.NewReader(large))); err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	job = upscaled.Job{Config: upscaled.EsrganConfig{ImagePath: path}}
	if _, err := client.Upscale(bounded(t), job, upscaled.Output(&output)); err != nil || !bytes.Equal(output.Bytes(), large) {
		t.Errorf("%d bytes, %v", output.Len(), err)
	}
	checkEmpty(t, folder)
}

type full struct{ err error }

func (f full) Write([]byte) (int, error) { return 0, f.err }

func TestNoEndOfACallLeavesAFile(t *testing.T) {
	t.Parallel()
	client, folder := startBackwards(t)
	broken := errors.New("the disk of the other side")
	half := io.MultiReader(bytes.NewReader(large), iotest.ErrReader(broken))
	whole := func() io.Reader { return bytes.NewReader(large) }
	soon, cancel := context.WithTimeout(bounded(t), 20*time.Millisecond)
	defer cancel()
	ends := map[string]struct {
		ctx    context.Context
		model  string
		input  io.Reader
		output io.Writer
		want   error
	}{
		"the daemon's error":     {bounded(t), "fail", whole(), io.Discard, upscaled.CodeInputUnreadable},
		"a context's end":        {soon, "hang", whole(), io.Discard, context.DeadlineExceeded},
		"the daemon's death":     {bounded(t), "die", whole(), io.Discard, upscaled.ErrDaemonGone},
		"an input that breaks":   {bounded(t), "", half, io.Discard, broken},
		"an output that is full": {bounded(t), "", whole(), full{broken}, broken},
	}
	for name, end := range ends {
		job := upscaled.Job{Config: upscaled.EsrganConfig{Model: end.model}}
		_, err := client.Upscale(end.ctx, job, upscaled.Input(end.input), upscaled.Output(end.output))
		if !errors.Is(err, end.want) {
			t.Errorf("%s: %v", name, err)
		}
		checkEmpty(t, folder)
	}
}

func TestAReaderThatGivesNothingHoldsNoCall(t *testing.T) {
	t.Parallel()
	client, folder := startBackwards(t)
	job := upscaled.Job{Config: upscaled.EsrganConfig{}}
	ended := make(chan error)
	input, writer := io.Pipe()
	upscale := func(ctx context.Context) {
		_, err := client.Upscale(ctx, job, upscaled.Input(input), upscaled.Output(io.Discard))
		ended <- err
	}
	ctx, cancel := context.WithCancel(bounded(t))
	go upscale(ctx)
	if _, err := writer.Write(large); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, upscaled.CodeCancelled) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	go upscale(bounded(t))
	client.Close()
	if err := <-ended; !errors.Is(err, upscaled.ErrClosed) {
		t.Errorf("%v", err)
	}
	writer.Close()
	waitUntil(t, "the files' removal", func() bool {
		left, err := os.ReadDir(folder)
		return err == nil && len(left) == 0
	})
}

func TestTwoPicturesTwoPlacesOrNoneAreRefused(t *testing.T) {
	t.Parallel()
	client := unstarted(t)
	input, output := upscaled.Input(bytes.NewReader(small)), upscaled.Output(io.Discard)
	tests := map[string]struct {
		config  upscaled.Config
		options []upscaled.CallOption
	}{
		"Input and image_path are two pictures": {upscaled.EsrganConfig{ImagePath: "a"}, []upscaled.CallOption{input, output}},
		"Output and output_path are two places": {upscaled.EsrganConfig{OutputPath: "a"}, []upscaled.CallOption{input, output}},
		"give Output or OutputPath":             {upscaled.EsrganConfig{}, []upscaled.CallOption{input}},
		"the config is no object":               {upscaled.RawConfig{Name: "esrgan", JSON: json.RawMessage("null")}, []upscaled.CallOption{input, output}},
		"the job has no config":                 {nil, []upscaled.CallOption{input, output}},
	}
	for sentence, test := range tests {
		_, err := client.Upscale(bounded(t), upscaled.Job{Config: test.config}, test.options...)
		if !errors.Is(err, upscaled.CodeInvalidJob) || !strings.Contains(err.Error(), sentence) {
			t.Errorf("%s: %v", sentence, err)
		}
	}
}

func TestAnInputWithoutBytesIsUnreadableAsAnEmptyFileIs(t *testing.T) {
	t.Parallel()
	job := upscaled.Job{Config: upscaled.EsrganConfig{}}
	_, err := unstarted(t).Upscale(bounded(t), job, upscaled.Input(&bytes.Buffer{}), upscaled.Output(io.Discard))
	if !errors.Is(err, upscaled.CodeInputUnreadable) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (failing) Method() string                 { return "fake" }
func (f failing) MarshalJSON() ([]byte, error) { return nil, f.err }

func TestAnErrorIsItsReasonToo(t *testing.T) {
	t.Parallel()
	reason := &os.PathError{Op: "open", Path: "settings", Err: os.ErrNotExist}
	_, err := unstarted(t).Upscale(bounded(t), upscaled.Job{Config: failing{reason}})
	var code upscaled.Code
	var path *os.PathError
	if !errors.As(err, &code) || code != upscaled.CodeInvalidJSON || !errors.As(err, &path) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
