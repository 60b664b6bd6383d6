package upscaled_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/quick"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

// loose is a config of any fields.
type loose map[string]any

func (loose) Method() string { return "fake" }

// unruly is a config whose methods fail or panic.
type unruly struct {
	Says   func() string          `json:"-"`
	Writes func() ([]byte, error) `json:"-"`
}

func (u unruly) Method() string               { return u.Says() }
func (u unruly) MarshalJSON() ([]byte, error) { return u.Writes() }

func says() string             { return "fake" }
func nothing() ([]byte, error) { return []byte("{}"), nil }

// shout is text by way of a method.
type shout string

func (s shout) MarshalText() ([]byte, error) { return []byte(s), nil }

func nested(levels int) any {
	var value any = 0
	for ; levels > 0; levels-- {
		value = []any{value}
	}
	return value
}

// unstarted is a client whose daemon is not needed: it fails if anything is written to it.
func unstarted(t *testing.T) *upscaled.Client {
	t.Helper()
	client := upscaled.New(
		upscaled.WithCommand("sh", "-c", "read line && exit 70; exit 0"),
		upscaled.WithRestart(upscaled.RestartPolicy{}))
	t.Cleanup(func() {
		client.Close()
		if _, err := client.Health(context.Background()); !errors.Is(err, upscaled.ErrClosed) {
			t.Errorf("%v", err)
		}
	})
	return client
}

func TestWhatCannotBeSentIsRefusedWithItsCode(t *testing.T) {
	t.Parallel()
	cycle := loose{}
	cycle["self"] = cycle
	var pointers any
	pointers = &pointers
	ok := upscaled.FakeConfig{}
	tests := map[string]struct {
		job  upscaled.Job
		code upscaled.Code
	}{
		"an id that is no UTF-8":   {upscaled.Job{JobID: "a\xff", Config: ok}, upscaled.CodeInvalidJob},
		"half a surrogate pair":    {upscaled.Job{JobID: "\xed\xa0\xbd", Config: ok}, upscaled.CodeInvalidJob},
		"an id that is too long":   {upscaled.Job{JobID: strings.Repeat("é", 129), Config: ok}, upscaled.CodeInvalidJob},
		"no config":                {upscaled.Job{}, upscaled.CodeInvalidJob},
		"a nil config":             {upscaled.Job{Config: (*upscaled.EsrganConfig)(nil)}, upscaled.CodeInvalidJob},
		"a nil map":                {upscaled.Job{Config: loose(nil)}, upscaled.CodeInvalidJob},
		"no number":                {upscaled.Job{Config: upscaled.FakeConfig{StepS: math.NaN()}}, upscaled.CodeInvalidJob},
		"an infinite time":         {upscaled.Job{Config: ok, TimeoutS: math.Inf(1)}, upscaled.CodeInvalidJob},
		"text that is no UTF-8":    {upscaled.Job{Config: upscaled.FluxConfig{Prompt: "\xff"}}, upscaled.CodeInvalidJob},
		"a pointer to such":        {upscaled.Job{Config: &upscaled.FluxConfig{Prompt: "\xff"}}, upscaled.CodeInvalidJob},
		"a name that is no UTF-8":  {upscaled.Job{Config: loose{"\xff": 1}}, upscaled.CodeInvalidJob},
		"such text deep inside":    {upscaled.Job{Config: loose{"a": []any{map[string]*string{"b": upscaled.Ptr("\xff")}}}}, upscaled.CodeInvalidJob},
		"such text of a method":    {upscaled.Job{Config: loose{"a": shout("\xff")}}, upscaled.CodeInvalidJob},
		"a channel":                {upscaled.Job{Config: loose{"a": make(chan int)}}, upscaled.CodeInvalidJob},
		"a function":               {upscaled.Job{Config: loose{"a": func() {}}}, upscaled.CodeInvalidJob},
		"a cycle":                  {upscaled.Job{Config: cycle}, upscaled.CodeInvalidJob},
		"a cycle of pointers":      {upscaled.Job{Config: loose{"a": pointers}}, upscaled.CodeInvalidJob},
		"too many levels":          {upscaled.Job{Config: loose{"a": nested(1023)}}, upscaled.CodeInvalidJSON},
		"a million levels":         {upscaled.Job{Config: loose{"a": nested(1_000_000)}}, upscaled.CodeInvalidJSON},
		"too many levels in JSON":  {rawJob(`{"a":` + strings.Repeat("[", 1023) + strings.Repeat("]", 1023) + `}`), upscaled.CodeInvalidJSON},
		"JSON that is none":        {rawJob(`{"a":`), upscaled.CodeInvalidJSON},
		"JSON that is no UTF-8":    {rawJob("{\"a\":\"\xff\"}"), upscaled.CodeInvalidJSON},
		"a line in the JSON":       {rawJob("{}\n{}"), upscaled.CodeInvalidJSON},
		"a line over the limit":    {upscaled.Job{Config: upscaled.FluxConfig{Prompt: strings.Repeat("x", 32<<20)}}, upscaled.CodeLineTooLong},
		"a Marshaler that fails":   {upscaled.Job{Config: unruly{says, func() ([]byte, error) { return nil, errors.New("no") }}}, upscaled.CodeInvalidJSON},
		"a Marshaler that panics":  {upscaled.Job{Config: unruly{says, func() ([]byte, error) { panic("no") }}}, upscaled.CodeInvalidJSON},
		"a method that panics":     {upscaled.Job{Config: unruly{func() string { panic("no") }, nothing}}, upscaled.CodeInvalidJSON},
		"a method that is no UTF8": {upscaled.Job{Config: unruly{func() string { return "\xff" }, nothing}}, upscaled.CodeInvalidJob},
	}
	client := unstarted(t)
	for name, test := range tests {
		_, err := client.Upscale(bounded(t), test.job)
		var failed *upscaled.JobError
		if !errors.As(err, &failed) || failed.Message.Code != test.code || failed.Retryable() {
			t.Errorf("%s: %.300v", name, err)
		}
	}
}

func rawJob(text string) upscaled.Job {
	return upscaled.Job{Config: upscaled.RawConfig{Name: "fake", JSON: json.RawMessage(text)}}
}

func TestAsManyLevelsAsTheLimitAreSent(t *testing.T) {
	t.Parallel()
	client := startFake(t)
	// The daemon reads the line, and knows no such field.
	for _, job := range []upscaled.Job{
		{Config: loose{"a": nested(1022)}},
		rawJob(`{"a":` + strings.Repeat("[", 1022) + strings.Repeat("]", 1022) + `,"[[[":"\"]]"}`),
	} {
		_, err := client.Upscale(bounded(t), job)
		if !errors.Is(err, upscaled.CodeInvalidJob) || !strings.Contains(err.Error(), `no field "a"`) {
			t.Errorf("%.300v", err)
		}
	}
}

func TestAFileNameThatIsNoUTF8ReachesTheDaemon(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "caf\xe9 \"é\"\x80.txt")
	config := upscaled.FakeConfig{OutputPath: path, OutputText: "it is here"}
	client := startFake(t)
	for _, either := range []upscaled.Config{config, &config} {
		result, err := client.Upscale(bounded(t), upscaled.Job{Config: either})
		if err != nil {
			t.Fatal(err)
		}
		if result.OutputPath != path {
			t.Errorf("the result names %q", result.OutputPath)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != "it is here" {
			t.Errorf("%q, %v", text, err)
		}
		_ = os.Remove(path)
	}
	if config.OutputPath != path {
		t.Errorf("the caller's config was changed to %+v", config)
	}
}

func TestAResultsPathsAreReadAsTheyAre(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`"/a\udce9\udc80"`:            "/a\xe9\x80",
		`"/\uD83D\uDE00\uDCFF\u00e9"`: "/😀\xffé",
		`"/\ud83d\udc80"`:             "/💀",
		`"\\udcff\"é"`:                `\udcff"é`,
		`"\udcff\ud83d"`:              "\xff\uFFFD",
		`null`:                        "",
	} {
		var result upscaled.Result
		line := `{"type":"result","job_id":"\udc00","output_path":` + text + `,"warnings":["\udcff"]}`
		if err := json.Unmarshal([]byte(line), &result); err != nil || result.OutputPath != want {
			t.Errorf("%s: %q, %v", text, result.OutputPath, err)
		}
	}
}

func TestALetterForAnUnreadableOneIsALetter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "\uFFFD.txt")
	job := fake(upscaled.FakeConfig{OutputPath: path})
	if _, err := startFake(t).Upscale(bounded(t), job); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// hostile is a job that no client should send.
type hostile struct{ upscaled.Job }

var fragments = []string{"\xff", "\xed\xa0\xbd", "😀", "\x00", `\`, `"`, "\n", "é", "job_id", "\u2028", `\ud83d`, "[", "{", "steps"}

func text(r *rand.Rand, most int) string {
	var parts []string
	for n := r.Intn(most + 1); n > 0; n-- {
		parts = append(parts, fragments[r.Intn(len(fragments))])
	}
	return strings.Join(parts, "")
}

func anyValue(r *rand.Rand, levels int) any {
	switch kind := r.Intn(12); {
	case kind == 0:
		return math.Inf(1 - 2*r.Intn(2))
	case kind == 1:
		return make(chan int)
	case kind == 2:
		return r.Int63() - r.Int63()
	case kind == 3:
		return json.RawMessage(text(r, 4))
	case kind == 4:
		return json.Number(text(r, 2))
	case kind == 5:
		return (*upscaled.EsrganConfig)(nil)
	case kind == 6 && levels > 0:
		return nested(1020 + r.Intn(5))
	case kind < 9 && levels > 0:
		return []any{anyValue(r, levels-1), anyValue(r, levels-1)}
	case kind < 11 && levels > 0:
		return map[string]any{text(r, 2): anyValue(r, levels-1)}
	}
	return text(r, 4)
}

// Generate makes one, for testing/quick.
func (hostile) Generate(r *rand.Rand, _ int) reflect.Value {
	job := upscaled.Job{JobID: text(r, 3), Priority: r.Int() - r.Int(), MaxAttempts: r.Intn(3) - 1}
	if r.Intn(4) == 0 {
		job.JobID = strings.Repeat(job.JobID, r.Intn(100))
	}
	switch r.Intn(6) {
	case 0: // no config
	case 1:
		job.Config = upscaled.RawConfig{Name: text(r, 2), JSON: json.RawMessage(text(r, 5))}
	case 2:
		job.Config = &upscaled.FakeConfig{OutputPath: "/nowhere/" + text(r, 3), PrintText: text(r, 3)}
	default:
		job.Config = loose{text(r, 1): anyValue(r, 3)}
	}
	return reflect.ValueOf(hostile{job})
}

func TestEveryHostileJobSettles(t *testing.T) {
	t.Parallel()
	client := startFake(t)
	settles := func(job hostile) bool {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		_, err := client.Upscale(ctx, job.Job)
		var failed *upscaled.JobError
		return err == nil || errors.As(err, &failed) && ctx.Err() == nil
	}
	if err := quick.Check(settles, &quick.Config{MaxCount: 500, Rand: rand.New(rand.NewSource(1))}); err != nil {
		t.Error(err)
	}
	if report, err := client.Health(bounded(t)); err != nil || report.InFlight != 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestADaemonThatIsStoppedLeavesNoCallOpen(t *testing.T) {
	t.Parallel()
	client := startFake(t, upscaled.WithCancelGrace(time.Millisecond), upscaled.WithCloseTimeout(time.Millisecond))
	_ = syscall.Kill(client.PID(), syscall.SIGSTOP)
	// More than the pipe holds: the first are written, one in part, and the others wait to be.
	text := strings.Repeat("x", 30_000)
	ended := make(chan error)
	ctx, cancel := context.WithCancel(context.Background())
	open := 0
	start := func(run func() error) {
		open++
		go func() { ended <- run() }()
	}
	for i := 0; i < 8; i++ {
		start(func() error {
			_, err := client.Upscale(ctx, fake(upscaled.FakeConfig{OutputText: text}))
			return err
		})
	}
	start(func() error { _, err := client.Health(ctx); return err })
	start(func() error { _, err := client.Trim(ctx); return err })
	start(func() error { return client.Replay(ctx, text, text, text, text) })
	cancel()
	for ; open > 0; open-- {
		select {
		case err := <-ended:
			// A question may have been written to the pipe, and is not answered.
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		case <-time.After(timeout):
			t.Fatalf("%d calls stay open", open)
		}
	}
	// These are ended by the close alone.
	for i := 0; i < 4; i++ {
		start(func() error {
			_, err := client.Upscale(context.Background(), fake(upscaled.FakeConfig{OutputText: text}))
			return err
		})
	}
	start(func() error { _, err := client.Health(context.Background()); return err })
	client.Close()
	for ; open > 0; open-- {
		select {
		case err := <-ended:
			if err == nil {
				t.Error("a call got an answer from nowhere")
			}
		case <-time.After(timeout):
			t.Fatalf("%d calls stay open after the close", open)
		}
	}
}

func TestCallsBeyondAFullQueueWait(t *testing.T) {
	t.Parallel()
	for name, command := range map[string][]string{
		"worker":     {"upscaled", "worker", "--methods", "fake", "--max-queue", "2"},
		"supervisor": {"upscaled", "run", "--methods", "fake", "--max-queue", "2"},
	} {
		client, err := upscaled.Start(bounded(t), upscaled.WithCommand(command...))
		if err != nil {
			t.Fatal(err)
		}
		inFlight(40, func(number int) {
			if _, err := client.Upscale(bounded(t), fake(upscaled.FakeConfig{Steps: upscaled.Ptr(2)})); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		client.Close()
	}
}

// lateRefusal refuses the job b for a full queue when the file that it is given has a line.
const lateRefusal = `
echo '{"type":"status","message":"ready"}'
read a; echo '{"type":"accepted","job_id":"a","position":0}'
read b; read line < "$0"
echo '{"type":"error","job_id":"b","error":"full","code":"queue_full","retryable":true}'
echo '{"type":"result","job_id":"a","status":"completed"}'
read b; echo '{"type":"accepted","job_id":"b","position":0}'
read end; echo '{"type":"result","job_id":"b","status":"completed"}'`

// earlyRefusal does so at once, and ends the job a when the file has a line.
const earlyRefusal = `
echo '{"type":"status","message":"ready"}'
read a; echo '{"type":"accepted","job_id":"a","position":0}'
read b; echo '{"type":"error","job_id":"b","error":"full","code":"queue_full","retryable":true}'
read line < "$0"; echo '{"type":"result","job_id":"a","status":"completed"}'
read b; echo '{"type":"accepted","job_id":"b","position":0}'
read end; echo '{"type":"result","job_id":"b","status":"completed"}'`

func TestACloseWaitsForAJobThatAFullQueueRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ daemon, last string }{
		"before the close": {earlyRefusal, "error"},
		"after it":         {lateRefusal, "accepted"},
	} {
		test := test
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			line := filepath.Join(t.TempDir(), "line")
			if err := syscall.Mkfifo(line, 0o600); err != nil {
				t.Fatal(err)
			}
			came := make(chan struct{})
			var once sync.Once
			client := upscaled.New(
				upscaled.WithCommand("sh", "-c", test.daemon, line),
				upscaled.WithMessages(func(m upscaled.Message) {
					if m.Type == test.last {
						once.Do(func() { close(came) })
					}
				}))
			var calls []*upscaled.Call
			for _, id := range []string{"a", "b"} {
				job := fake(upscaled.FakeConfig{})
				job.JobID = id
				call, err := client.Submit(bounded(t), job)
				if err != nil {
					t.Fatal(err)
				}
				calls = append(calls, call)
			}
			<-came
			closed := make(chan struct{})
			ended, end := context.WithCancel(context.Background())
			end()
			go func() { client.Close(); close(closed) }()
			waitUntil(t, "the close", func() bool {
				_, err := client.Health(ended)
				return errors.Is(err, upscaled.ErrClosed)
			})
			if err := os.WriteFile(line, []byte("\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, call := range calls {
				if _, err := call.Wait(bounded(t)); err != nil {
					t.Errorf("%s: %v", call.ID(), err)
				}
			}
			<-closed
		})
	}
}

func TestACallThatWaitsForADaemonEndsWithItsContextAndWithAClose(t *testing.T) {
	t.Parallel()
	client := upscaled.New(
		upscaled.WithCommand("sh", "-c", "exit 3"),
		upscaled.WithRestart(upscaled.RestartPolicy{Attempts: 1000, Delay: time.Hour, MaxDelay: time.Hour}))
	waitUntil(t, "the end of the first daemon", func() bool { return client.PID() == 0 })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	upscale := func(ctx context.Context) {
		_, err := client.Upscale(ctx, fake(upscaled.FakeConfig{}))
		ended <- err
	}
	questions := []func(ctx context.Context) error{
		func(ctx context.Context) error { _, err := client.Health(ctx); return err },
		func(ctx context.Context) error { _, err := client.Trim(ctx); return err },
		func(ctx context.Context) error { return client.Replay(ctx) },
	}
	ask := func(ctx context.Context) {
		for _, question := range questions {
			go func(question func(context.Context) error) { ended <- question(ctx) }(question)
		}
	}
	go upscale(ctx)
	cancel()
	if err := <-ended; !errors.Is(err, upscaled.CodeCancelled) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	ask(ctx)
	for range questions {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("a question: %v", err)
		}
	}
	go upscale(context.Background())
	ask(context.Background())
	client.Close()
	shutDown := 0
	for i := 0; i <= len(questions); i++ {
		switch err := <-ended; {
		case errors.Is(err, upscaled.CodeShuttingDown):
			shutDown++
		case !errors.Is(err, upscaled.ErrClosed):
			t.Errorf("a question: %v", err)
		}
	}
	if shutDown != 1 {
		t.Errorf("%d calls ended by the close", shutDown)
	}
}

func TestAJobThatWasNotSentCanBeLogged(t *testing.T) {
	t.Parallel()
	if _, err := json.Marshal(upscaled.Job{}); err == nil {
		t.Error("a job without a config was written")
	}
	if text := fmt.Sprint(upscaled.Job{}); text == "" {
		t.Error("nothing to log")
	}
}
