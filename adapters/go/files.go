package upscaled

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/upscaled/upscaled/adapters/go/internal/rawpath"
)

// Up to this size a long line is faster than a file.
const inlineBytes = 1 << 20

var (
	inputFields  = []string{"image_path", "image_base64", "image_url"}
	outputFields = []string{"output_path", "output_base64"}
)

// files are the picture of a call that comes from a Reader, or goes to a Writer:
//
//	input  ── at most 1 MiB: image_base64; else a temporary file: image_path ──> daemon
//	output <── a temporary file: output_path ──────────────────────────────────── daemon
//
// They are in a folder of the call, which is removed when the call ends.
type files struct {
	input  io.Reader
	output io.Writer
	// Of all folders, and this call's; empty if it has none yet.
	parent, folder string
}

// prepare reads the input. The job is one that a daemon can run; the error is a *JobError, or the Reader's, or the
// disk's.
func (f *files) prepare(job Job) (Job, error) {
	if job.Config == nil {
		return job, nil // refused later, as ever
	}
	config, err := job.configJSON()
	if err != nil {
		return job, err
	}
	if err := f.check(job.JobID, config); err != nil {
		return job, err
	}
	members := map[string][]byte{}
	if f.input != nil {
		if err := f.read(job.JobID, members); err != nil {
			return job, err
		}
	}
	if f.output != nil {
		if err := f.makeFolder(); err != nil {
			return job, err
		}
		members["output_path"] = rawpath.Quote(filepath.Join(f.folder, "output"))
	}
	job.Config = RawConfig{Name: job.Config.Method(), JSON: withMembers(config, members)}
	return job, nil
}

// configJSON is the config as it is in the job's line.
func (j Job) configJSON() (json.RawMessage, error) {
	line, err := j.line()
	if err != nil {
		return nil, err
	}
	var written struct {
		Config json.RawMessage `json:"config"`
	}
	err = json.Unmarshal(line, &written)
	return written.Config, err
}

func (f *files) check(id string, config json.RawMessage) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(config, &fields); err != nil || fields == nil {
		return localError(id, CodeInvalidJob, "the config is no object", err)
	}
	second, other := given(fields, inputFields), given(fields, outputFields)
	sentence := ""
	switch {
	case f.input != nil && second != "":
		sentence = fmt.Sprintf("Input and %s are two pictures: give one of them", second)
	case f.output != nil && other != "":
		sentence = fmt.Sprintf("Output and %s are two places: give one of them", other)
	case f.output == nil && other == "":
		sentence = "the input has no folder for the output: give Output or OutputPath"
	default:
		return nil
	}
	return localError(id, CodeInvalidJob, sentence, nil)
}

// given is the first of these fields that the config has; empty if it has none.
func given(config map[string]json.RawMessage, names []string) string {
	for _, name := range names {
		if value, ok := config[name]; ok && string(value) != "null" {
			return name
		}
	}
	return ""
}

func (f *files) read(id string, members map[string][]byte) error {
	head, err := io.ReadAll(io.LimitReader(f.input, inlineBytes+1))
	if err != nil {
		return err
	}
	if len(head) == 0 {
		return localError(id, CodeInputUnreadable, "the input is empty: it gave no bytes", nil)
	}
	if len(head) <= inlineBytes {
		members["image_base64"] = []byte(`"` + base64.StdEncoding.EncodeToString(head) + `"`)
		return nil
	}
	if err := f.makeFolder(); err != nil {
		return err
	}
	path := filepath.Join(f.folder, "input")
	members["image_path"] = rawpath.Quote(path)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = file.Write(head); err == nil {
		_, err = io.Copy(file, f.input)
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// deliver gives the picture to the Writer.
func (f *files) deliver(result *Result) error {
	if f.output == nil {
		return nil
	}
	file, err := os.Open(result.OutputPath)
	if err != nil {
		return err
	}
	defer file.Close()
	// It is about to be removed.
	result.OutputPath = ""
	_, err = io.Copy(f.output, file)
	return err
}

func (f *files) makeFolder() (err error) {
	if f.folder == "" {
		f.folder, err = os.MkdirTemp(f.parent, "upscaled-")
	}
	if err == nil {
		f.folder, err = filepath.Abs(f.folder)
	}
	return err
}

// remove removes the folder. A daemon that still writes the output finds none for it.
func (f *files) remove() {
	if f.folder != "" {
		_ = os.RemoveAll(f.folder)
	}
}

// finish is the call's end with its picture delivered, and its files removed.
func (f *files) finish(result *Result, err error) (*Result, error) {
	defer f.remove()
	if err == nil {
		err = f.deliver(result)
	}
	if err != nil {
		return nil, err
	}
	return result, nil
}

// prepareUntil has the files prepared, until the context ends or the channel is closed: the error is a *JobError then, or
// errStopped. A Reader cannot be stopped: its files are removed when it returns.
func (f *files) prepareUntil(ctx context.Context, stopped <-chan struct{}, job Job) (Job, error) {
	var prepared Job
	var failure error
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		prepared, failure = f.prepare(job)
	}()
	removeLater := func() { <-ready; f.remove() }
	select {
	case <-ready:
		if failure != nil {
			f.remove()
		}
		return prepared, failure
	case <-ctx.Done():
		go removeLater()
		return job, cancelled(job.JobID, ctx.Err())
	case <-stopped:
		go removeLater()
		return job, errStopped
	}
}

// prepareFiles has the call's files prepared, until the context or the client ends.
func (c *Client) prepareFiles(ctx context.Context, f *files, job Job) (Job, error) {
	if err := c.refusal(job.JobID); err != nil {
		return job, err
	}
	prepared, err := f.prepareUntil(ctx, c.stopped, job)
	if errors.Is(err, errStopped) {
		err = c.refusal(job.JobID)
	}
	return prepared, err
}
