package upscaled_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }

func read(t *testing.T, r io.Reader) (ids []string) {
	t.Helper()
	channel := upscaled.NewChannel(r, nowhere{}, func(m upscaled.Message) { ids = append(ids, m.Type+" "+m.JobID) })
	<-channel.Ended()
	return ids
}

func TestLinesThatAreCutAnywhereArriveWhole(t *testing.T) {
	t.Parallel()
	text := "\r\n{\"type\":\"result\",\"job_id\":\"é—😀\"}\r\n \n{\"type\":\"status\"}"
	for _, r := range []io.Reader{iotest.OneByteReader(strings.NewReader(text)), iotest.HalfReader(strings.NewReader(text))} {
		if got := strings.Join(read(t, r), ","); got != "result é—😀,status " {
			t.Errorf("got %q", got)
		}
	}
}

func TestWhatIsNoMessageIsPassedOver(t *testing.T) {
	t.Parallel()
	text := "null\n[1]\n\"ready\"\n{\"type\":7}\n{}\n{\"type\":\"a\"\n" + strings.Repeat("[", 100_000) + "\n{\"type\":\"status\"}\n"
	if got := strings.Join(read(t, strings.NewReader(text)), ","); got != "status " {
		t.Errorf("got %q", got)
	}
}

func TestAMessageThatIsStoppedBeforeItsSendIsNeverWritten(t *testing.T) {
	t.Parallel()
	daemonsIn, w := io.Pipe()
	r, daemonsOut := io.Pipe()
	channel := upscaled.NewChannel(r, w, func(upscaled.Message) {})
	written := make(chan string)
	go func() {
		text, _ := io.ReadAll(daemonsIn)
		written <- string(text)
	}()
	stopped := make(chan struct{})
	close(stopped)
	for i := 0; i < 100; i++ {
		if err := channel.Send(nil, upscaled.Health{Type: "health"}); err != nil {
			t.Fatal(err)
		}
		if err := channel.Send(stopped, upscaled.Trim{Type: "trim"}); err == nil {
			t.Error("it was taken")
		}
	}
	channel.Close()
	if text := <-written; strings.Count(text, "health") != 100 || strings.Contains(text, "trim") {
		t.Errorf("the daemon read %q", text)
	}
	_ = daemonsOut.Close()
	<-channel.Ended()
}

func TestASendWaitsForAReaderAndCanBeStopped(t *testing.T) {
	t.Parallel()
	daemonsIn, w := io.Pipe()
	r, daemonsOut := io.Pipe()
	channel := upscaled.NewChannel(r, w, func(upscaled.Message) {})
	if err := channel.Send(nil, upscaled.Health{Type: "health"}); err != nil {
		t.Fatal(err)
	}
	// The writer is busy with the first line, which is not read.
	stopped := make(chan struct{})
	close(stopped)
	if err := channel.Send(stopped, upscaled.Trim{Type: "trim"}); err == nil {
		t.Error("a second line was taken")
	}
	var message upscaled.Health
	if err := json.NewDecoder(daemonsIn).Decode(&message); err != nil || message.Type != "health" {
		t.Errorf("%+v, %v", message, err)
	}
	daemonsOut.Close()
	<-channel.Ended()
	if err := channel.Send(nil, upscaled.Health{Type: "health"}); !errors.Is(err, upscaled.ErrDaemonGone) {
		t.Errorf("%v", err)
	}
	daemonsIn.Close()
}

var filler = bytes.Repeat([]byte{'x'}, 64<<10)

// long is a line past the limit of 32 MiB that begins so.
func long(head string) io.Reader {
	parts := []io.Reader{strings.NewReader(head)}
	for length := 0; length < 32<<20; length += len(filler) {
		parts = append(parts, bytes.NewReader(filler))
	}
	return io.MultiReader(append(parts, strings.NewReader("\"}"))...)
}

// lines is what the daemon writes: texts, and lines that are long.
func lines(parts ...any) io.Reader {
	var readers []io.Reader
	for i, part := range parts {
		if i > 0 {
			readers = append(readers, strings.NewReader("\n"))
		}
		if text, ok := part.(string); ok {
			readers = append(readers, strings.NewReader(text))
		} else {
			readers = append(readers, part.(io.Reader))
		}
	}
	return io.MultiReader(readers...)
}

func TestAResultOrAnErrorPastTheLimitEndsItsJobWithACode(t *testing.T) {
	t.Parallel()
	stream := lines(
		long(`{"type":"result","job_id":"`+strings.Repeat(`\ud83d\ude00`, 128)+`","output_base64":"`),
		`{"type":"status"}`,
		long(` { "type" : "error" , "job_id" : "b\"" , "error":"`))
	var ends []upscaled.ErrorMessage
	channel := upscaled.NewChannel(stream, nowhere{}, func(m upscaled.Message) {
		var end upscaled.ErrorMessage
		if err := m.Decode(&end); err != nil || end.Type != m.Type || end.JobID != m.JobID {
			t.Errorf("%+v, %v", m, err)
		}
		ends = append(ends, end)
	})
	<-channel.Ended()
	if err := channel.Err(); err != nil || len(ends) != 3 || ends[1].Type != "status" {
		t.Fatalf("%v, %+v", err, ends)
	}
	result, failed := ends[0], ends[2]
	if result.JobID != strings.Repeat("😀", 128) || !strings.Contains(result.Error, "more than 32 MiB: give output_path instead of output_base64") {
		t.Errorf("%+v", result)
	}
	if failed.Type != "error" || failed.JobID != `b"` || failed.Code != upscaled.CodeLineTooLong || failed.Retryable {
		t.Errorf("%+v", failed)
	}
}

func TestAnyOtherLinePastTheLimitChangesNothing(t *testing.T) {
	t.Parallel()
	stream := lines(
		long(`{"type":"progress","job_id":"a","stage":"`), long(`{"type":"error","job_id":null,"error":"`),
		long(`{"type":"status","detail":"`), long("a library's print"), `{"type":"status"}`)
	if got := strings.Join(read(t, stream), ","); got != "status " {
		t.Errorf("got %q", got)
	}
}

func TestALinePastTheLimitThatTellsNoJobEndsTheReading(t *testing.T) {
	t.Parallel()
	for _, head := range []string{`{"output_base64":"`, `{"type":"result","output_base64":"`, `{"type":"result","job_id":"`} {
		count := 0
		stream := lines(`{"type":"status"}`, long(head), `{"type":"status"}`)
		channel := upscaled.NewChannel(stream, nowhere{}, func(upscaled.Message) { count++ })
		<-channel.Ended()
		if err := channel.Err(); count != 1 || err == nil || !strings.Contains(err.Error(), "does not begin with type and job_id") {
			t.Errorf("%s: %d, %v", head, count, err)
		}
	}
}
