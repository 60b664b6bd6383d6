package upscaled_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

// Much longer than any test takes, also on a busy machine.
const timeout = 100 * time.Second

// hangs makes progress once, and then none, with a child process of its own.
var hangs = upscaled.FakeConfig{Steps: upscaled.Ptr(2), AtStep: 1, Hang: true, SpawnSleeper: true}

// A daemon that runs such a job: the supervisor, the fork server, the worker and the child process.
const hangingFamily = 4

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	return ctx
}

// startFake starts `upscaled run --methods fake`, found in PATH.
func startFake(t *testing.T, options ...upscaled.Option) *upscaled.Client {
	t.Helper()
	options = append([]upscaled.Option{upscaled.WithArgs("--methods", "fake")}, options...)
	client, err := upscaled.Start(bounded(t), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func fake(config upscaled.FakeConfig) upscaled.Job { return upscaled.Job{Config: config} }

// submitRunning returns when the job has made progress.
func submitRunning(t *testing.T, client *upscaled.Client, config upscaled.FakeConfig) *upscaled.Call {
	t.Helper()
	ctx := bounded(t)
	started := make(chan struct{})
	var once sync.Once
	onProgress := upscaled.OnProgress(func(upscaled.Progress) { once.Do(func() { close(started) }) })
	call, err := client.Submit(ctx, fake(config), onProgress)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-started:
	case <-ctx.Done():
		t.Fatal("the job made no progress")
	}
	return call
}

func waitUntil(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(timeout); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come about", what)
		}
	}
}

// The state (Z: it has exited) and the parent of a process.
var stat = regexp.MustCompile(`\) ([A-Z]) (\d+)`)

// parentOf returns 0 if the process has exited.
func parentOf(pid int) int {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	fields := stat.FindSubmatch(text)
	if err != nil || fields == nil || string(fields[1]) == "Z" {
		return 0
	}
	parent, _ := strconv.Atoi(string(fields[2]))
	return parent
}

// familyOf is the process and all that descend from it.
func familyOf(pid int) []int {
	entries, _ := os.ReadDir("/proc")
	family := []int{pid}
	for i := 0; i < len(family); i++ {
		for _, entry := range entries {
			if child, err := strconv.Atoi(entry.Name()); err == nil && parentOf(child) == family[i] {
				family = append(family, child)
			}
		}
	}
	return family
}

func waitGone(t *testing.T, family []int) {
	t.Helper()
	waitUntil(t, "the end of the daemon's processes", func() bool {
		for _, pid := range family {
			if parentOf(pid) != 0 {
				return false
			}
		}
		return true
	})
}

// held counts what a leak would increase.
func held() (goroutines, files int) {
	entries, _ := os.ReadDir("/proc/self/fd")
	return runtime.NumGoroutine(), len(entries)
}
