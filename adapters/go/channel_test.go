package upscaled_test

import (
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
	text := "\r\n{\"type\":\"result\",\"job_id\":\"é—😀\"}\r\n \n{\"type\":\"status\"}"
	for _, r := range []io.Reader{iotest.OneByteReader(strings.NewReader(text)), iotest.HalfReader(strings.NewReader(text))} {
		if got := strings.Join(read(t, r), ","); got != "result é—😀,status " {
			t.Errorf("got %q", got)
		}
	}
}

func TestWhatIsNoMessageIsPassedOver(t *testing.T) {
	text := "null\n[1]\n\"ready\"\n{\"type\":7}\n{}\n{\"type\":\"a\"\n" + strings.Repeat("[", 100_000) + "\n{\"type\":\"status\"}\n"
	if got := strings.Join(read(t, strings.NewReader(text)), ","); got != "status " {
		t.Errorf("got %q", got)
	}
}

func TestASendWaitsForAReaderAndCanBeStopped(t *testing.T) {
	daemonsIn, w := io.Pipe()
	r, daemonsOut := io.Pipe()
	channel := upscaled.NewChannel(r, w, func(upscaled.Message) {})
	if err := channel.Send(nil, upscaled.Health{Type: "health"}); err != nil {
		t.Fatal(err)
	}
	// The writer is busy with the first line, which nobody reads.
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

// long is a line past the limit of 32 MiB that begins so.
func long(head string) string { return head + strings.Repeat("x", 32<<20) + "\"}\n" }

func TestAResultOrAnErrorPastTheLimitEndsItsJobWithACode(t *testing.T) {
	text := long(`{"type":"result","job_id":"`+strings.Repeat(`\ud83d\ude00`, 128)+`","output_base64":"`) +
		"{\"type\":\"status\"}\n" + strings.TrimSpace(long(` { "type" : "error" , "job_id" : "b\"" , "error":"`))
	var ends []upscaled.ErrorMessage
	channel := upscaled.NewChannel(strings.NewReader(text), nowhere{}, func(m upscaled.Message) {
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
	text := long(`{"type":"progress","job_id":"a","stage":"`) + long(`{"type":"error","job_id":null,"error":"`) +
		long(`{"type":"status","detail":"`) + long("a library's print") + "{\"type\":\"status\"}\n"
	if got := strings.Join(read(t, strings.NewReader(text)), ","); got != "status " {
		t.Errorf("got %q", got)
	}
}

func TestALinePastTheLimitThatTellsNoJobEndsTheReading(t *testing.T) {
	for _, head := range []string{`{"output_base64":"`, `{"type":"result","output_base64":"`, `{"type":"result","job_id":"`} {
		count := 0
		text := "{\"type\":\"status\"}\n" + long(head) + "{\"type\":\"status\"}\n"
		channel := upscaled.NewChannel(strings.NewReader(text), nowhere{}, func(upscaled.Message) { count++ })
		<-channel.Ended()
		if err := channel.Err(); count != 1 || err == nil || !strings.Contains(err.Error(), "does not begin with type and job_id") {
			t.Errorf("%s: %d, %v", head, count, err)
		}
	}
}
