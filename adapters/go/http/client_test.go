package upscaledhttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

// echo gives each picture back as it came. A job with a label does not end until it is cancelled.
type echo struct {
	*httptest.Server
	mu        sync.Mutex
	fields    map[string]string
	picture   []byte
	fileName  string
	cancelled chan struct{}
	// Gets a value when a job that waits has its stream.
	held chan struct{}
}

func newEcho(t *testing.T) *echo {
	e := &echo{cancelled: make(chan struct{}), held: make(chan struct{}, 1)}
	e.Server = httptest.NewServer(http.StripPrefix("/behind/a/proxy", e))
	t.Cleanup(e.Close)
	return e
}

func (e *echo) client(t *testing.T, options ...Option) *Client {
	client, err := Connect(context.Background(), e.URL+"/behind/a/proxy/", options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Kill)
	return client
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/api/health":
		fmt.Fprint(w, `{"status":"ok","queue_size":2,"version":"9.9.9","device":null}`)
	case strings.HasSuffix(r.URL.Path, "/cancel"):
		close(e.cancelled)
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPost:
		e.read(r)
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, `{"job_id":"J1","status":"queued"}`)
	case strings.HasSuffix(r.URL.Path, "/events"):
		e.stream(w)
	default:
		e.mu.Lock()
		defer e.mu.Unlock()
		_, _ = w.Write(e.picture)
	}
}

func (e *echo) read(r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, parameters, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	parts := multipart.NewReader(r.Body, parameters["boundary"])
	e.fields = map[string]string{}
	for part, err := parts.NextPart(); err == nil; part, err = parts.NextPart() {
		content, _ := io.ReadAll(part)
		if part.FileName() != "" {
			e.picture, e.fileName = content, part.FileName()
		} else {
			e.fields[part.FormName()] = string(content)
		}
	}
}

func (e *echo) stream(w http.ResponseWriter) {
	e.mu.Lock()
	_, waits := e.fields["label"]
	size := len(e.picture)
	e.mu.Unlock()
	fmt.Fprint(w, `data: {"job_id":"J1","status":"processing","progress":50,"stage":"upscale"}`+"\n\n")
	w.(http.Flusher).Flush()
	if waits {
		e.held <- struct{}{}
		<-e.cancelled
		fmt.Fprint(w, `data: {"job_id":"J1","status":"cancelled","error":"the job was cancelled","code":"cancelled"}`+"\n\n")
		return
	}
	fmt.Fprintf(w, `data: {"job_id":"J1","status":"completed","result_url":"/","output_size":{"width":7,"height":5},"file_size_bytes":%d}`+"\n\n", size)
}

func TestAReaderGoesInAndAWriterGetsThePicture(t *testing.T) {
	e := newEcho(t)
	folder := t.TempDir()
	client := e.client(t, WithTempDir(folder))
	for _, size := range []int{7, 3 << 20} {
		picture := bytes.Repeat([]byte("x"), size)
		var written bytes.Buffer
		var stages []string
		result, err := client.Upscale(context.Background(),
			upscaled.Job{Config: upscaled.EsrganConfig{UpscaleFactor: 2, UseFP16: upscaled.Ptr(false)}},
			upscaled.Input(bytes.NewReader(picture)), upscaled.Output(&written),
			upscaled.OnProgress(func(p upscaled.Progress) { stages = append(stages, p.Stage) }))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(written.Bytes(), picture) || *result.OutputSize != (upscaled.Size{Width: 7, Height: 5}) {
			t.Errorf("%d bytes came back, and %+v", written.Len(), result)
		}
		if sent := map[string]string{"upscale_factor": "2", "use_fp16": "false"}; !reflect.DeepEqual(e.fields, sent) {
			t.Errorf("sent %v", e.fields)
		}
		if !reflect.DeepEqual(stages, []string{"upscale"}) {
			t.Errorf("the stages were %v", stages)
		}
	}
	if left, _ := os.ReadDir(folder); len(left) > 0 {
		t.Errorf("%v was left", left)
	}
}

func TestAFileNameThatIsNoUTF8IsReadAndWritten(t *testing.T) {
	e := newEcho(t)
	folder := t.TempDir()
	config := upscaled.EsrganConfig{ImagePath: filepath.Join(folder, "in\xff.png"), OutputPath: filepath.Join(folder, "out\xfe.jpg")}
	if err := os.WriteFile(config.ImagePath, []byte("picture"), 0o600); err != nil {
		t.Fatal(err)
	}
	result, err := e.client(t).Upscale(context.Background(), upscaled.Job{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	if content, _ := os.ReadFile(config.OutputPath); string(content) != "picture" || result.OutputPath != config.OutputPath {
		t.Errorf("%q was written to %q", content, result.OutputPath)
	}
	if e.fields["output_format"] != "jpeg" || e.fileName != "in\uFFFD.png" {
		t.Errorf("sent %v as %q", e.fields, e.fileName)
	}
}

func TestAFileThatGrowsWhileItIsUploadedIsReportedAndSentOnce(t *testing.T) {
	// It has the size 0, and some text.
	config := upscaled.EsrganConfig{ImagePath: "/proc/version", OutputPath: filepath.Join(t.TempDir(), "out.png")}
	_, err := newEcho(t).client(t).Upscale(context.Background(), upscaled.Job{Config: config})
	if !errors.Is(err, upscaled.CodeInputUnreadable) || !strings.Contains(err.Error(), "changed while it was sent") {
		t.Errorf("%v", err)
	}
}

func TestTheEndOfAContextCancelsItsJob(t *testing.T) {
	e := newEcho(t)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-e.held; cancel() }()
	_, err := e.client(t).Upscale(ctx, upscaled.Job{JobID: "held", Config: upscaled.EsrganConfig{}},
		upscaled.Input(strings.NewReader("picture")), upscaled.Output(io.Discard))
	var failed *upscaled.JobError
	if !errors.Is(err, upscaled.CodeCancelled) || !errors.Is(err, context.Canceled) || !errors.As(err, &failed) || failed.JobID != "held" {
		t.Errorf("the error is %v", err)
	}
}

func TestAKillEndsWhatIsOpenAndNothingIsTakenAnyMore(t *testing.T) {
	e := newEcho(t)
	client := e.client(t)
	go func() { <-e.held; client.Kill() }()
	job := upscaled.Job{JobID: "held", Config: upscaled.EsrganConfig{}}
	for range []int{1, 2} {
		_, err := client.Upscale(context.Background(), job, upscaled.Input(strings.NewReader("picture")), upscaled.Output(io.Discard))
		if !errors.Is(err, upscaled.CodeShuttingDown) || !errors.Is(err, upscaled.ErrClosed) {
			t.Errorf("the error is %v", err)
		}
	}
}

func TestAServerThatIsNotThereIsADaemonThatIsGone(t *testing.T) {
	// Nothing listens on port 9 of loopback.
	_, err := Connect(context.Background(), "http://127.0.0.1:9", WithRetry(upscaled.RestartPolicy{}))
	if !errors.Is(err, upscaled.ErrDaemonGone) {
		t.Errorf("the error is %v", err)
	}
}

func TestARefusalThatIsAboutNoJobNamesNone(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	_, err := Connect(context.Background(), server.URL)
	if err == nil || err.Error() != "the server answered 404: 404 page not found" {
		t.Errorf("%v", err)
	}
}

func TestAServerThatIsSilentIsWaitedForAsLongAsTheContextSays(t *testing.T) {
	done := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-done }))
	defer silent.Close()
	defer close(done)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, silent.URL); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v", err)
	}
}

func TestWhatIsNoURLOfAServerIsRefused(t *testing.T) {
	for _, url := range []string{"upscaler:8080", "ftp://upscaler", "http://name:password@upscaler", "http://"} {
		if _, err := New(url); err == nil {
			t.Errorf("%q is taken", url)
		}
	}
}

func TestManyJobsRun64AtATimeAndOneThatWaitsForItsTurnEndsWithItsContext(t *testing.T) {
	const jobs = 200
	arrived, release := make(chan struct{}, jobs+1), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-release
		fmt.Fprint(w, `{"job_id":"J1","method":"esrgan","status":"completed"}`)
	}))
	defer server.Close()
	var once sync.Once
	releaseAll := func() { once.Do(func() { close(release) }) }
	defer releaseAll()
	client, err := New(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	job := upscaled.Job{Config: upscaled.EsrganConfig{ImageURL: "http://h/a.png", OutputPath: "a.png"}}
	ended := make(chan error, jobs)
	for i := 0; i < jobs; i++ {
		go func() {
			_, err := client.Upscale(ctx, job)
			ended <- err
		}()
	}
	for i := 0; i < 64; i++ {
		<-arrived
	}
	late, stop := context.WithTimeout(ctx, time.Millisecond)
	defer stop()
	if _, err := client.Upscale(late, job); !errors.Is(err, upscaled.CodeCancelled) {
		t.Error(err)
	}
	for i := 64; i < jobs; i++ {
		release <- struct{}{}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		<-arrived
		if more := len(arrived); more > 0 {
			t.Fatalf("%d jobs run at a time", 64+more)
		}
	}
	releaseAll()
	for i := 0; i < 64; i++ {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestACertificateThatIsNotTrustedEndsACallAtTheFirstTry(t *testing.T) {
	var tries atomic.Int32
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			tries.Add(1)
		}
	}
	server.StartTLS()
	defer server.Close()
	_, err := Connect(context.Background(), server.URL, WithRetry(upscaled.RestartPolicy{Attempts: 3}))
	var gone *upscaled.DaemonGoneError
	if !errors.As(err, &gone) || !strings.Contains(err.Error(), "certificate") {
		t.Fatal(err)
	}
	if tries.Load() != 1 {
		t.Fatalf("%d tries", tries.Load())
	}
}
