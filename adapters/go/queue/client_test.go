package upscaledqueue

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

// scripted is a Redis that gives the answers of a test.
type scripted struct {
	net.Listener
	answer func(command []string) string

	mu       sync.Mutex
	commands [][]string
	sockets  []net.Conn
}

func newScripted(t *testing.T, settings *tls.Config, answer func(command []string) string) *scripted {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if settings != nil {
		listener = tls.NewListener(listener, settings)
	}
	s := &scripted{Listener: listener, answer: answer}
	go s.serve()
	t.Cleanup(func() {
		listener.Close()
		s.cut()
	})
	return s
}

func (s *scripted) serve() {
	for {
		socket, err := s.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.sockets = append(s.sockets, socket)
		s.mu.Unlock()
		go s.talk(socket)
	}
}

func (s *scripted) talk(socket net.Conn) {
	reader := bufio.NewReader(socket)
	number := func(mark string) (int, error) {
		line, err := reader.ReadString('\n')
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(line), mark))
	}
	for {
		count, err := number("*")
		if err != nil {
			return
		}
		command := make([]string, count)
		for i := range command {
			size, err := number("$")
			if err != nil {
				return
			}
			part := make([]byte, size+2)
			if _, err := io.ReadFull(reader, part); err != nil {
				return
			}
			command[i] = string(part[:size])
		}
		s.mu.Lock()
		s.commands = append(s.commands, command)
		s.mu.Unlock()
		if _, err := io.WriteString(socket, s.answer(command)); err != nil {
			return
		}
	}
}

// cut closes all connections.
func (s *scripted) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, socket := range s.sockets {
		socket.Close()
	}
}

// heard returns what it was sent.
func (s *scripted) heard() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]string(nil), s.commands...)
}

func healthy(command []string) string {
	switch command[0] {
	case "INFO":
		return bulk("# Memory\r\nmaxmemory_policy:noeviction\r\n")
	case "GET":
		return "$-1\r\n"
	case "EVAL":
		return ":1\r\n"
	}
	return "+OK\r\n"
}

func bulk(text string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text) }

func open(t *testing.T, url string, options ...Option) *Client {
	client, err := Open(context.Background(), url, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestTheURLHasThePasswordAndTheDatabase(t *testing.T) {
	read, err := readAddress("rediss://user:p%40s%2Fs@[::1]/3")
	expected := address{isTLS: true, host: "[::1]:6379", user: "user", password: "p@s/s", db: 3}
	if err != nil || read != expected {
		t.Fatal(read, err)
	}
	if read.String() != "rediss://[::1]:6379/3" {
		t.Fatal("the password is shown: ", read)
	}
}

func TestAURLOfNoQueueIsRefusedWithoutItsPassword(t *testing.T) {
	for _, url := range []string{
		"", "bullmq://:secret@h/0", "amqp://u:secret@h//", "redis://:secret@h/first", "redis://:se/cret@h/0",
		"redis://:secret#1@h/0", "redis://u:1/secret@h/0", "redis://:secret@h/0?ssl_cert_reqs=none", "redis://:secret@h:port/0", "secret",
	} {
		if _, err := readAddress(url); err == nil || strings.Contains(err.Error(), "cret") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestPrioritiesAreCelerysLevels(t *testing.T) {
	var levels []int
	for _, priority := range []int{-1_000_000, -5, -1, 0, 1, 4, 1_000_000} {
		levels = append(levels, levelOf(priority))
	}
	if !reflect.DeepEqual(levels, []int{9, 9, 5, 4, 3, 0, 0}) {
		t.Fatal(levels)
	}
}

func TestEachConnectionLogsInAndSelectsOverTLS(t *testing.T) {
	certified := httptest.NewTLSServer(nil)
	defer certified.Close()
	redis := newScripted(t, &tls.Config{Certificates: certified.TLS.Certificates}, healthy)
	url := "rediss://user:secret@" + redis.Addr().String() + "/2"
	if _, err := Open(context.Background(), url); err == nil || strings.Contains(err.Error(), "secret") {
		t.Fatal("a certificate of no known authority: ", err)
	}
	known := x509.NewCertPool()
	known.AddCert(certified.Certificate())
	open(t, url, WithTLS(&tls.Config{RootCAs: known}))
	expected := [][]string{{"AUTH", "user", "secret"}, {"SELECT", "2"}, {"INFO", "memory"}}
	if heard := redis.heard(); !reflect.DeepEqual(heard, expected) {
		t.Fatal(heard)
	}
}

func TestALostConnectionIsReplaced(t *testing.T) {
	redis := newScripted(t, nil, healthy)
	client := open(t, "redis://"+redis.Addr().String(), WithPrefix("pictures-"), WithKeep(time.Hour))
	redis.cut()
	if _, err := client.Submit(context.Background(), upscaled.Job{JobID: "1", Config: upscaled.FakeConfig{}}); err != nil {
		t.Fatal(err)
	}
	heard := redis.heard()
	last := heard[len(heard)-1]
	keys := []string{"3", "upscaled:record:1", "upscaled:job:1", "pictures-fake\x06\x164"}
	if last[0] != "EVAL" || !reflect.DeepEqual(last[2:6], keys) || last[8] != "3600" {
		t.Fatal(last)
	}
}

func TestAClosedClientSaysSo(t *testing.T) {
	redis := newScripted(t, nil, healthy)
	client := open(t, "redis://"+redis.Addr().String())
	client.Close()
	if _, err := client.End(context.Background(), "1"); !errors.Is(err, upscaled.ErrClosed) {
		t.Fatal(err)
	}
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	redis := newScripted(t, nil, func(command []string) string {
		if command[0] == "EVAL" {
			return ""
		}
		return healthy(command)
	})
	client := open(t, "redis://"+redis.Addr().String())
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.End(ctx, "waiting"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	job := upscaled.Job{Config: upscaled.FakeConfig{}}
	if _, err := client.Submit(ctx, job); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestTheEndIsWaitedForWhileRedisIsAway(t *testing.T) {
	asked := 0
	redis := newScripted(t, nil, func(command []string) string {
		if command[0] != "GET" {
			return healthy(command)
		}
		if asked++; asked == 1 {
			return "-LOADING Redis is loading the dataset in memory\r\n"
		}
		return bulk(`{"type":"error","job_id":"1","error":"it was cancelled","code":"cancelled","retryable":false}`)
	})
	client := open(t, "redis://"+redis.Addr().String())
	if _, err := client.End(context.Background(), "1"); !errors.Is(err, upscaled.CodeCancelled) {
		t.Fatal(err)
	}
}

func TestWhatNoMachineTakesIsRefusedBeforeItIsSent(t *testing.T) {
	redis := newScripted(t, nil, healthy)
	client := open(t, "redis://"+redis.Addr().String())
	for code, job := range map[upscaled.Code]upscaled.Job{
		upscaled.CodeInvalidJob:    {Config: upscaled.EsrganConfig{OutputBase64: true}},
		upscaled.CodeUnknownMethod: {Config: upscaled.RawConfig{Name: "nonsense"}},
	} {
		if _, err := client.Submit(context.Background(), job); !errors.Is(err, code) {
			t.Error(code, err)
		}
	}
	if heard := redis.heard(); len(heard) != 1 {
		t.Fatal("more than the first question was sent: ", heard)
	}
}

func TestWhatIsNoRedisIsNamed(t *testing.T) {
	other := newScripted(t, nil, func([]string) string { return "HTTP/1.1 400 Bad Request\r\n\r\n" })
	_, err := Open(context.Background(), "redis://"+other.Addr().String())
	if !errors.Is(err, errNoRedis) {
		t.Fatal(err)
	}
}
