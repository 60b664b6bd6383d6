package upscaledqueue

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

const (
	// A Redis that does not answer for so long is away.
	answerTimeout = 10 * time.Second
	// Connections that are kept for the next commands.
	idleLimit = 8
	// Above the longest line of the protocol, 32 MiB: a server that announces more is no Redis of ours.
	replyLimitBytes = 64 << 20
)

var errNoRedis = errors.New("its answer is not one of Redis: is this its port, and TLS as it has it?")

// refusal is an error that Redis answered with.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

// isOutage is false for what would be refused again.
func isOutage(err error) bool {
	var refused *refusal
	if !errors.As(err, &refused) {
		return !errors.Is(err, upscaled.ErrClosed)
	}
	kind, _, _ := strings.Cut(refused.text, " ")
	return kind == "LOADING" || kind == "BUSY" || kind == "MASTERDOWN"
}

// pool has the connections to one Redis.
type pool struct {
	address address
	tls     *tls.Config

	mu       sync.Mutex
	idle     []*connection
	isClosed bool
}

// do sends a command and returns its answer; nil if that is nil. A command whose idle connection was lost is sent again on
// a new one, so each must be one that may be sent twice.
func (p *pool) do(ctx context.Context, command ...string) (*string, error) {
	for {
		c, err := p.take()
		if err != nil {
			return nil, err
		}
		isNew := c == nil
		if isNew {
			c, err = p.connect(ctx)
		}
		var answer *string
		if err == nil {
			answer, err = c.do(ctx, command...)
		}
		var refused *refusal
		switch {
		case err == nil:
			p.put(c)
			return answer, nil
		case c != nil && errors.As(err, &refused):
			p.put(c)
			return nil, fmt.Errorf("the Redis at %s refused %s: %w", p.address, command[0], err)
		case c != nil:
			c.Close()
		}
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("the Redis at %s did not answer in time: %w", p.address, ctx.Err())
		case errors.As(err, &refused):
			return nil, fmt.Errorf("the Redis at %s refused the connection: %w", p.address, err)
		case isNew:
			return nil, fmt.Errorf("the Redis at %s cannot be reached: %w", p.address, err)
		}
	}
}

// take returns an idle connection; nil if there is none.
func (p *pool) take() (*connection, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosed {
		return nil, upscaled.ErrClosed
	}
	if len(p.idle) == 0 {
		return nil, nil
	}
	c := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	return c, nil
}

func (p *pool) put(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosed || len(p.idle) == idleLimit {
		c.Close()
		return
	}
	p.idle = append(p.idle, c)
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isClosed = true
	for _, c := range p.idle {
		c.Close()
	}
	p.idle = nil
}

// connect opens a connection in the address's database.
func (p *pool) connect(ctx context.Context) (*connection, error) {
	dialer := net.Dialer{Timeout: answerTimeout}
	dial := dialer.DialContext
	if p.address.isTLS {
		dial = (&tls.Dialer{NetDialer: &dialer, Config: p.tls}).DialContext
	}
	socket, err := dial(ctx, "tcp", p.address.host)
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: socket, reader: bufio.NewReader(socket)}
	if err := p.enter(ctx, c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (p *pool) enter(ctx context.Context, c *connection) error {
	if p.address.password != "" {
		login := []string{"AUTH", p.address.password}
		if p.address.user != "" {
			login = []string{"AUTH", p.address.user, p.address.password}
		}
		if _, err := c.do(ctx, login...); err != nil {
			return err
		}
	}
	if p.address.db == 0 {
		return nil
	}
	_, err := c.do(ctx, "SELECT", strconv.Itoa(p.address.db))
	return err
}

// connection speaks RESP 2, one command at a time.
type connection struct {
	net.Conn
	reader *bufio.Reader
}

// do sends a command and reads its answer. After an error that is no refusal the connection is of no more use.
func (c *connection) do(ctx context.Context, command ...string) (*string, error) {
	if err := c.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, err
	}
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
			// Reads and writes that wait end at once.
			_ = c.SetDeadline(time.Unix(1, 0))
		case <-done:
		}
	}()
	defer func() {
		close(done)
		<-watched
	}()
	writer := bufio.NewWriter(c.Conn)
	fmt.Fprintf(writer, "*%d\r\n", len(command))
	for _, part := range command {
		fmt.Fprintf(writer, "$%d\r\n", len(part))
		_, _ = writer.WriteString(part)
		_, _ = writer.WriteString("\r\n")
	}
	// It has the first error of all writes.
	if err := writer.Flush(); err != nil {
		return nil, err
	}
	return c.read()
}

// read reads one answer: a text, a number as text, or nil.
func (c *connection) read() (*string, error) {
	line, err := c.reader.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, errNoRedis
	}
	if err != nil {
		return nil, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return nil, errNoRedis
	}
	text := string(line[1 : len(line)-2])
	switch line[0] {
	case '+', ':':
		return &text, nil
	case '-':
		return nil, &refusal{text}
	case '$':
		return c.readBulk(text)
	}
	return nil, errNoRedis
}

func (c *connection) readBulk(announced string) (*string, error) {
	size, err := strconv.Atoi(announced)
	if err != nil || size < -1 || size > replyLimitBytes {
		return nil, errNoRedis
	}
	if size == -1 {
		return nil, nil
	}
	content := make([]byte, size+len("\r\n"))
	if _, err := io.ReadFull(c.reader, content); err != nil {
		return nil, err
	}
	text := string(content[:size])
	return &text, nil
}
