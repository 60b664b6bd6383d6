package upscaled

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// Message is any message of the daemon.
type Message struct {
	// Type is one of status, accepted, progress, result, error and health, or one of a later version.
	Type string `json:"type"`
	// JobID is the job that the message is about; empty if there is none.
	JobID string `json:"job_id"`
	// Raw is all of it.
	Raw json.RawMessage `json:"-"`
}

// Decode reads the message into one of the protocol's types.
func (m Message) Decode(into any) error { return json.Unmarshal(m.Raw, into) }

// Channel is the protocol over two byte streams. It knows no process.
//
//	host ── Send ──> writer goroutine ──> one JSON line per message ──> daemon
//	host <─ handle ─ reader goroutine <───── always reading ────────── daemon
type Channel struct {
	lines   chan []byte
	closing chan struct{}
	ended   chan struct{}
	err     error
}

// NewChannel reads from r and writes to w until r ends, and closes w by then. It calls handle with
// each message, in order. If the end of a job is in a line past the limit, handle gets an error in its place.
func NewChannel(r io.Reader, w io.WriteCloser, handle func(Message)) *Channel {
	c := &Channel{
		// Not buffered: the sender waits for the reader.
		lines:   make(chan []byte),
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
	}
	go c.write(w)
	go func() {
		defer close(c.ended)
		takeLine := func(line []byte) {
			// Hosts ignore what they do not understand.
			var message Message
			if json.Unmarshal(line, &message) == nil && message.Type != "" {
				message.Raw = append(json.RawMessage(nil), line...)
				handle(message)
			}
		}
		c.err = readLines(r, lineLimitBytes, takeLine, func(head []byte) error {
			message, err := lostEnd(head)
			if message != nil {
				handle(*message)
			}
			return err
		})
	}()
	return c
}

// Send writes one message; it waits while the daemon does not read, unless stop is closed. The error is
// ErrDaemonGone, ErrClosed or errStopped, or why there is no line for it; nothing was written then.
func (c *Channel) Send(stop <-chan struct{}, message any) error {
	line, err := json.Marshal(message)
	if err == nil {
		err = checkLine(line)
	}
	if err != nil {
		return err
	}
	return c.sendLine(stop, append(line, '\n'))
}

// sendLine sends a line with its end. The same line may be sent again.
func (c *Channel) sendLine(stop <-chan struct{}, line []byte) error {
	// A select takes any of the cases that can go on, so a stopped line could be written.
	select {
	case <-stop:
		return errStopped
	default:
	}
	select {
	case c.lines <- line:
		return nil
	case <-c.ended:
		return ErrDaemonGone
	case <-c.closing:
		return ErrClosed
	case <-stop:
		return errStopped
	}
}

var errStopped = errors.New("stopped")

// Close says that nothing more will be sent: the daemon finishes what it has, and ends. It must be
// called once.
func (c *Channel) Close() { close(c.closing) }

// Ended is closed when nothing more will come.
func (c *Channel) Ended() <-chan struct{} { return c.ended }

// Err is why nothing more is read, though the daemon may write more; nil if its output has ended. It is set when
// Ended is closed.
func (c *Channel) Err() error { return c.err }

func (c *Channel) write(w io.WriteCloser) {
	defer w.Close()
	for {
		select {
		case line := <-c.lines:
			// If the daemon is gone, its stdout ends. What it did not read is lost.
			_, _ = w.Write(line)
		case <-c.closing:
			return
		case <-c.ended:
			return
		}
	}
}

// readLines calls handle with each line that is not blank, until the end. Lines past the limit are
// dropped as they come in; dropped gets the beginning of each, and its error ends the reading.
func readLines(r io.Reader, limit int, handle func([]byte), dropped func(head []byte) error) error {
	reader := bufio.NewReaderSize(r, 64<<10)
	var begun []byte
	dropping := false
	for {
		part, err := reader.ReadSlice('\n')
		if !dropping {
			begun = append(begun, part...)
		}
		if len(begun) > limit+1 {
			// A copy, so that the dropped bytes can be freed.
			dropping, begun = true, append([]byte(nil), begun[:headBytes]...)
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if dropping {
			if err := dropped(begun); err != nil {
				return err
			}
		} else if line := bytes.TrimSpace(begun); len(line) > 0 {
			handle(line)
		}
		if err != nil {
			return nil
		}
		dropping, begun = false, begun[:0]
	}
}
