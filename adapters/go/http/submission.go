package upscaledhttp

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	upscaled "github.com/upscaled/upscaled/adapters/go"
	"github.com/upscaled/upscaled/adapters/go/internal/rawpath"
)

// The server's limit of a job's label.
const longestLabel = 100

// submission is a job as a request: its fields and its picture as multipart/form-data, or as JSON if the picture is a
// URL.
type submission struct {
	path    string
	headers map[string]string
	// The picture lies between them; it is nil if the server is to fetch it.
	head, tail []byte
	picture    *picture
	jobID      string
	// sent is set once the server may have the whole of it, and so a job.
	sent atomic.Bool
}

type picture struct {
	name  string
	bytes int64
	open  func() (io.ReadCloser, error)
}

// fields are a job's, or its config's, as JSON.
type fields map[string]json.RawMessage

// fieldsOf reads a job's line.
func fieldsOf(job upscaled.Job) (method string, own, config fields, err error) {
	line, err := job.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(line, &own)
	}
	if err == nil {
		err = json.Unmarshal(own["method"], &method)
	}
	if err == nil {
		err = json.Unmarshal(own["config"], &config)
	}
	for _, name := range []string{"type", "job_id", "method", "config"} {
		delete(own, name)
	}
	return method, own, config, err
}

// text is a field's text; false if it has none.
func (f fields) text(name string) (string, bool) {
	quoted, ok := f[name]
	if !ok || len(quoted) == 0 || quoted[0] != '"' {
		return "", false
	}
	return rawpath.Unquote(quoted), true
}

// newSubmission makes the request. isNamed: the caller gave the job its id, which the server then shows as its label.
// format is the output's, if the config has none.
func newSubmission(job upscaled.Job, isNamed bool, format string) (*submission, error) {
	method, sent, config, err := fieldsOf(job)
	if err != nil {
		return nil, err
	}
	if format != "" {
		sent["output_format"] = json.RawMessage(`"` + format + `"`)
	}
	for name, value := range config {
		switch name {
		case "image_path", "image_base64", "image_url", "output_path", "output_base64":
		default:
			sent[name] = value
		}
	}
	if isNamed && utf8.RuneCountInString(job.JobID) <= longestLabel {
		sent["label"], _ = json.Marshal(job.JobID)
	}
	if address, ok := config["image_url"]; ok {
		sent["image_url"] = address
	}
	for name, value := range sent {
		if string(value) == "null" {
			delete(sent, name)
		}
	}
	s := &submission{
		path:  "/api/upscale/" + url.PathEscape(method),
		jobID: job.JobID,
		// One job, however often the request is sent.
		headers: map[string]string{"Idempotency-Key": newKey(), "Accept": "application/json"},
	}
	if s.picture, err = pictureOf(job.JobID, config); err != nil {
		return nil, err
	}
	if s.picture == nil {
		s.headers["Content-Type"] = "application/json"
		s.tail, err = json.Marshal(sent)
		return s, err
	}
	s.writeForm(sent)
	return s, nil
}

func (s *submission) writeForm(sent fields) {
	boundary := "upscaled-" + newKey()
	s.headers["Content-Type"] = "multipart/form-data; boundary=" + boundary
	var head bytes.Buffer
	part := func(name string) {
		fmt.Fprintf(&head, "--%s\r\nContent-Disposition: form-data; name=%s", boundary, quoted(name))
	}
	for name, value := range sent {
		part(name)
		text, isText := sent.text(name)
		if !isText {
			text = string(value)
		}
		fmt.Fprintf(&head, "\r\n\r\n%s\r\n", text)
	}
	part("image")
	fmt.Fprintf(&head, "; filename=%s\r\nContent-Type: application/octet-stream\r\n\r\n", quoted(s.picture.name))
	s.head, s.tail = head.Bytes(), []byte("\r\n--"+boundary+"--\r\n")
}

// exchange is the request. onRefused is called with each refusal, after which the server has no job.
func (s *submission) exchange(onRefused func() error) exchange {
	size := int64(len(s.head) + len(s.tail))
	if s.picture != nil {
		size += s.picture.bytes
	}
	return exchange{
		method: "POST", path: s.path, headers: s.headers, body: s.body, bytes: size, jobID: s.jobID,
		onRefused: func() error {
			s.sent.Store(false)
			return onRefused()
		},
	}
}

func (s *submission) body() (io.ReadCloser, error) {
	tail := &watched{Reader: bytes.NewReader(s.tail), begun: &s.sent}
	if s.picture == nil {
		return io.NopCloser(tail), nil
	}
	file, err := s.picture.open()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(s.head), file, tail), file}, nil
}

// watched notes that it is being read.
type watched struct {
	io.Reader
	begun *atomic.Bool
}

func (w *watched) Read(piece []byte) (int, error) {
	w.begun.Store(true)
	return w.Reader.Read(piece)
}

func pictureOf(id string, config fields) (*picture, error) {
	if path, ok := config.text("image_path"); ok {
		return fileOf(id, path)
	}
	text, ok := config.text("image_base64")
	if !ok {
		return nil, nil // a URL; or none, and the server says what is missing
	}
	if strings.HasPrefix(text, "data:") {
		_, text, _ = strings.Cut(text, ",")
	}
	content, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, newError(id, upscaled.CodeInputUnreadable, fmt.Sprintf("image_base64 is no base64: %v", err), err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	return &picture{name: "image", bytes: int64(len(content)), open: open}, nil
}

func fileOf(id, path string) (*picture, error) {
	file, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, newError(id, upscaled.CodeInputNotFound, "there is no file "+path, err)
	case err != nil:
		return nil, newError(id, upscaled.CodeInputUnreadable, fmt.Sprintf("the input cannot be read: %v", err), err)
	case !file.Mode().IsRegular():
		return nil, newError(id, upscaled.CodeInputNotFound, path+" is no ordinary file", nil)
	}
	unreadable := func(sentence string, reason error) error {
		return newError(id, upscaled.CodeInputUnreadable, sentence, reason)
	}
	open := func() (io.ReadCloser, error) {
		opened, err := os.Open(path)
		if err != nil {
			return nil, unreadable(fmt.Sprintf("the input cannot be read: %v", err), err)
		}
		return &wholeFile{file: opened, left: file.Size(), unreadable: unreadable}, nil
	}
	return &picture{name: filepath.Base(path), bytes: file.Size(), open: open}, nil
}

// wholeFile is a file of so many bytes, as the request's head has said. Its errors are JobErrors.
type wholeFile struct {
	// Not embedded: its WriteTo would pass by Read.
	file       *os.File
	left       int64
	unreadable func(sentence string, reason error) error
}

func (f *wholeFile) Read(piece []byte) (int, error) {
	count, err := f.file.Read(piece)
	f.left -= int64(count)
	switch {
	case f.left < 0 || err == io.EOF && f.left > 0:
		return 0, f.unreadable(f.file.Name()+" changed while it was sent: send it once it is whole", nil)
	case err != nil && err != io.EOF:
		err = f.unreadable(fmt.Sprintf("the input cannot be read: %v", err), err)
	}
	return count, err
}

func (f *wholeFile) Close() error { return f.file.Close() }

// quoted is a name as browsers write it (WHATWG HTML, section 4.10.21.8).
func quoted(name string) string {
	escaped := strings.NewReplacer("\r", "%0D", "\n", "%0A", `"`, "%22").Replace(strings.ToValidUTF8(name, "\uFFFD"))
	return `"` + escaped + `"`
}

func newKey() string {
	var key [16]byte
	if _, err := rand.Read(key[:]); err != nil {
		panic(err) // the system has no random numbers
	}
	return hex.EncodeToString(key[:])
}
