package upscaledhttp

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

var (
	formats = map[string]string{
		".png": "png", ".tif": "tiff", ".tiff": "tiff", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".avif": "avif",
	}
	suffixes = map[string]string{
		"image/png": ".png", "image/tiff": ".tif", "image/jpeg": ".jpg", "image/webp": ".webp", "image/avif": ".avif",
	}
)

// destination is the file on this machine to which a job's picture is written. It appears whole, by a rename.
type destination struct {
	id, input, output string
	isBase64          bool
	// A job without a picture, as of a test partner, may have no result.
	hasInput bool
	// Of the output, by its suffix; empty if the config says it, or has no path.
	format string
}

// newDestination refuses what cannot be written, before any work is done for it.
func newDestination(id string, config fields) (*destination, error) {
	d := &destination{id: id, isBase64: string(config["output_base64"]) == "true"}
	d.input, _ = config.text("image_path")
	d.output, _ = config.text("output_path")
	for _, name := range []string{"image_path", "image_base64", "image_url"} {
		_, isGiven := config.text(name)
		d.hasInput = d.hasInput || isGiven
	}
	for _, name := range []string{"image_path", "image_base64", "output_path"} {
		if text, isGiven := config.text(name); isGiven && text == "" {
			return nil, newError(id, upscaled.CodeInvalidJob, name+" is empty", nil)
		}
	}
	if strings.Contains(d.input+d.output, "\x00") {
		return nil, newError(id, upscaled.CodeInvalidJob, "a path holds a zero character", nil)
	}
	_, hasFormat := config.text("output_format")
	if d.isBase64 {
		return d, nil
	}
	return d, d.check(hasFormat)
}

func (d *destination) check(hasFormat bool) error {
	path := d.output
	if path == "" {
		path = d.input
	}
	if path == "" && !d.hasInput {
		return nil
	}
	if path == "" {
		sentence := "give OutputPath or OutputBase64, because an input that is no file has no folder"
		return newError(d.id, upscaled.CodeInvalidJob, sentence, nil)
	}
	folder := filepath.Dir(path)
	if info, err := os.Stat(folder); err != nil || !info.IsDir() {
		return newError(d.id, upscaled.CodeOutputUnwritable, "there is no folder "+folder+": make it first", err)
	}
	if d.output == "" {
		return nil
	}
	if suffix := strings.ToLower(filepath.Ext(path)); !hasFormat && suffix != "" {
		if d.format = formats[suffix]; d.format == "" {
			sentence := suffix + " is not written here: use .png, .tif, .jpg, .webp or .avif, or give OutputFormat"
			return newError(d.id, upscaled.CodeUnsupportedFormat, sentence, nil)
		}
	}
	old, err := os.Stat(path)
	if err != nil {
		return nil
	}
	if !old.Mode().IsRegular() {
		return newError(d.id, upscaled.CodeOutputUnwritable, path+" exists and is no ordinary file", nil)
	}
	if input, err := os.Stat(d.input); err == nil && os.SameFile(old, input) {
		sentence := "the output " + path + " is the input itself: give another OutputPath"
		return newError(d.id, upscaled.CodeInvalidJob, sentence, nil)
	}
	return nil
}

// isThere reports whether a result is wanted.
func (d *destination) isThere() bool { return d.isBase64 || d.output != "" || d.hasInput }

// write gives the picture its place in the result. copy writes its bytes.
func (d *destination) write(job *Job, result *upscaled.Result, copy func(io.Writer) error) (err error) {
	if d.isBase64 {
		var text strings.Builder
		encoder := base64.NewEncoder(base64.StdEncoding, &text)
		if err := copy(encoder); err != nil {
			return err
		}
		_ = encoder.Close() // it writes to memory
		result.OutputBase64 = text.String()
		return nil
	}
	target := d.output
	if target == "" {
		target = d.named(job)
	}
	file, err := os.OpenFile(filepath.Join(filepath.Dir(target), ".upscaled-"+newKey()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return d.unwritable(err)
	}
	defer os.Remove(file.Name())
	err = copy(writer{file, d})
	if closeErr := file.Close(); err == nil && closeErr != nil {
		err = d.unwritable(closeErr)
	}
	if err != nil {
		return err
	}
	if d.output != "" {
		err = os.Rename(file.Name(), target)
	} else {
		target, err = renamedToFree(file.Name(), target)
	}
	if err != nil {
		return d.unwritable(err)
	}
	result.OutputPath = target
	return nil
}

// writer separates the disk's errors from the connection's.
type writer struct {
	file        *os.File
	destination *destination
}

func (w writer) Write(piece []byte) (int, error) {
	count, err := w.file.Write(piece)
	if err != nil {
		err = w.destination.unwritable(err)
	}
	return count, err
}

// named is the daemon's own name for the output, beside the input.
func (d *destination) named(job *Job) string {
	factor := 0.0
	if job.ScaleFactor != nil {
		factor = *job.ScaleFactor
	}
	number := strings.TrimRight(strings.TrimRight(strconv.FormatFloat(factor, 'f', 2, 64), "0"), ".")
	suffix := suffixes[job.MediaType]
	if suffix == "" {
		suffix = ".png"
	}
	stem := strings.TrimSuffix(d.input, filepath.Ext(d.input))
	return fmt.Sprintf("%s_%s_%sx%s", stem, job.Method, number, suffix)
}

func (d *destination) unwritable(err error) error {
	return newError(d.id, upscaled.CodeOutputUnwritable, fmt.Sprintf("the output cannot be written: %v", err), err)
}

// renamedToFree gives the file a name that no file has: photo.png, photo-2.png and so on.
func renamedToFree(pending, target string) (string, error) {
	suffix := filepath.Ext(target)
	for number := 1; ; number++ {
		path := target
		if number > 1 {
			path = fmt.Sprintf("%s-%d%s", strings.TrimSuffix(target, suffix), number, suffix)
		}
		err := take(path, pending)
		if !errors.Is(err, fs.ErrExist) {
			return path, err
		}
	}
}

// take gives the file this name, or returns fs.ErrExist if another file has it.
func take(path, pending string) error {
	err := os.Link(pending, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	// A file system without links, such as FAT. Here alone the name is an empty file's for a moment.
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(pending, path)
}
