package upscaled_test

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"upscaled"
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
