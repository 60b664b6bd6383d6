package upscaled_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

// inFlight runs that many jobs, 64 at a time.
func inFlight(jobs int, run func(number int)) {
	var next int64 = -1
	var lanes sync.WaitGroup
	for lane := 0; lane < 64; lane++ {
		lanes.Add(1)
		go func() {
			defer lanes.Done()
			for number := atomic.AddInt64(&next, 1); number < int64(jobs); number = atomic.AddInt64(&next, 1) {
				run(int(number))
			}
		}()
	}
	lanes.Wait()
}

func TestAThousandJobsEachGetTheirOwnResult(t *testing.T) {
	t.Parallel()
	client, ctx := startFake(t), bounded(t)
	inFlight(1000, func(number int) {
		job := fake(upscaled.FakeConfig{Model: fmt.Sprint("m", number%7)})
		job.JobID = strconv.Itoa(number)
		result, err := client.Upscale(ctx, job)
		if err != nil {
			t.Error(err)
		} else if result.JobID != job.JobID || result.Model != fmt.Sprint("m", number%7) {
			t.Errorf("job %d got %+v", number, result)
		}
	})
}

func TestProgressComesInOrderBeforeTheResult(t *testing.T) {
	t.Parallel()
	client := startFake(t)
	var seen []float64
	collect := upscaled.OnProgress(func(p upscaled.Progress) { seen = append(seen, p.Progress) })
	job := fake(upscaled.FakeConfig{Steps: upscaled.Ptr(5), StepS: 0.01})
	if _, err := client.Upscale(bounded(t), job, collect); err != nil {
		t.Fatal(err)
	}
	if len(seen) == 0 {
		t.Fatal("no progress came")
	}
	for i := 1; i < len(seen); i++ {
		if seen[i] < seen[i-1] {
			t.Fatalf("progress fell: %v", seen)
		}
	}
}

func TestEveryErrorCodeArrives(t *testing.T) {
	t.Parallel()
	client, ctx := startFake(t), bounded(t)
	for code, retryable := range upscaled.Codes {
		_, err := client.Upscale(ctx, fake(upscaled.FakeConfig{ErrorCode: code}))
		var failed *upscaled.JobError
		if !errors.Is(err, code) || !errors.As(err, &failed) || failed.Retryable() != retryable {
			t.Errorf("%s arrived as %v", code, err)
		}
		if errors.Is(err, context.Canceled) || errors.Is(err, upscaled.ErrDaemonGone) {
			t.Errorf("%s is mistaken for something else", code)
		}
	}
}

func TestAContextCancelsTheJob(t *testing.T) {
	t.Parallel()
	client := startFake(t)
	ctx, cancel := context.WithCancel(bounded(t))
	_, err := client.Upscale(ctx, fake(hangs), upscaled.OnProgress(func(upscaled.Progress) { cancel() }))
	if !errors.Is(err, upscaled.CodeCancelled) || !errors.Is(err, context.Canceled) {
		t.Errorf("running: %v", err)
	}
	if _, err = client.Upscale(ctx, fake(upscaled.FakeConfig{})); !errors.Is(err, context.Canceled) {
		t.Errorf("not begun: %v", err)
	}
	if _, err = client.Upscale(bounded(t), fake(upscaled.FakeConfig{})); err != nil {
		t.Error(err)
	}
}

func TestAnIDInFlightIsRefused(t *testing.T) {
	t.Parallel()
	client := startFake(t)
	ctx, cancel := context.WithCancel(bounded(t))
	job := fake(upscaled.FakeConfig{Hang: true})
	job.JobID = "same"
	call, err := client.Submit(ctx, job)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = client.Submit(ctx, job); !errors.Is(err, upscaled.CodeDuplicateJob) {
		t.Errorf("the second: %v", err)
	}
	cancel()
	if _, err = call.Wait(ctx); !errors.Is(err, upscaled.CodeCancelled) {
		t.Errorf("the first: %v", err)
	}
}

func TestAStormOfCancelsSettlesEveryCall(t *testing.T) {
	t.Parallel()
	client, ctx := startFake(t), bounded(t)
	inFlight(300, func(number int) {
		job := fake(upscaled.FakeConfig{Steps: upscaled.Ptr(2)})
		patience := []time.Duration{timeout, 0, time.Millisecond}[number%3]
		ours, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		_, err := client.Upscale(ours, job)
		if err != nil && (number%3 == 0 || !errors.Is(err, upscaled.CodeCancelled)) {
			t.Errorf("job %d: %v", number, err)
		}
	})
	report, err := client.Health(ctx)
	if err != nil || report.InFlight != 0 {
		t.Errorf("afterwards: %+v, %v", report, err)
	}
}

func TestAKilledWorkerLosesNoJob(t *testing.T) {
	t.Parallel()
	client, ctx := startFake(t), bounded(t)
	result, err := client.Upscale(ctx, fake(upscaled.FakeConfig{Signal: 9, OnlyOnAttempt: 1}))
	if err != nil || result.Attempt != 2 {
		t.Fatalf("%+v, %v", result, err)
	}
	// It holds the device until its worker is killed, and the others wait behind it.
	held := upscaled.FakeConfig{Steps: upscaled.Ptr(2), AtStep: 1, Hang: true, OnlyOnAttempt: 1}
	calls := []*upscaled.Call{submitRunning(t, client, held)}
	for i := 0; i < 100; i++ {
		call, err := client.Submit(ctx, fake(upscaled.FakeConfig{}))
		if err != nil {
			t.Fatal(err)
		}
		calls = append(calls, call)
	}
	report, err := client.Health(ctx)
	if err != nil || len(report.Workers) == 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	_ = syscall.Kill(*report.Workers[0].PID, syscall.SIGKILL)
	for _, call := range calls {
		if _, err := call.Wait(ctx); err != nil {
			t.Error(err)
		}
	}
}

func TestAKilledDaemonSettlesEveryCallAndIsStartedAgain(t *testing.T) {
	t.Parallel()
	client, ctx := startFake(t), bounded(t)
	family := familyOf(client.PID())
	var calls []*upscaled.Call
	for i := 0; i < 20; i++ {
		call, err := client.Submit(ctx, fake(upscaled.FakeConfig{Hang: true}))
		if err != nil {
			t.Fatal(err)
		}
		calls = append(calls, call)
	}
	// Answered after the jobs: they are accepted by then.
	if _, err := client.Health(ctx); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(client.PID(), syscall.SIGKILL)
	for _, call := range calls {
		if _, err := call.Wait(ctx); !errors.Is(err, upscaled.ErrDaemonGone) {
			t.Errorf("%v", err)
		}
	}
	if _, err := client.Upscale(ctx, fake(upscaled.FakeConfig{})); err != nil {
		t.Error(err)
	}
	waitGone(t, family)
}

func TestADaemonThatNeverGetsReadyIsGivenUp(t *testing.T) {
	t.Parallel()
	_, err := upscaled.Start(bounded(t),
		upscaled.WithCommand("sh", "-c", "echo no such model >&2; exit 3"),
		upscaled.WithRestart(upscaled.RestartPolicy{Attempts: 3, Delay: time.Millisecond, MaxDelay: time.Second}))
	var gone *upscaled.DaemonGoneError
	if !errors.As(err, &gone) || gone.Status != 3 || !strings.Contains(gone.LastWords, "no such model") {
		t.Errorf("%v", err)
	}
}

func TestWrongUsageAndAMissingProgramAreToldAtOnce(t *testing.T) {
	t.Parallel()
	var gone *upscaled.DaemonGoneError
	_, err := upscaled.Start(bounded(t), upscaled.WithArgs("--methods", "fake", "--no-such-option"))
	if !errors.As(err, &gone) || gone.Status != 2 {
		t.Errorf("%v", err)
	}
	_, err = upscaled.Start(bounded(t), upscaled.WithCommand("no-such-program"))
	if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "install upscaled") {
		t.Errorf("%v", err)
	}
	_, err = upscaled.Start(bounded(t), upscaled.WithCommand("/no/such/program"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestAProgramThatIsReplacedUnderItsClientIsStartedAgainAndAnswersWhatWasAskedMeanwhile(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "daemon")
	install := func() {
		t.Helper()
		script := "#!/bin/sh\necho '{\"type\":\"status\",\"message\":\"ready\"}'\nexec cat\n"
		// `cat` answers each question with its `request_id`. By a rename: a file that is open for writing cannot be started.
		if err := os.WriteFile(program+".new", []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(program+".new", program); err != nil {
			t.Fatal(err)
		}
	}
	install()
	client, err := upscaled.Start(bounded(t), upscaled.WithCommand(program),
		upscaled.WithRestart(upscaled.RestartPolicy{Attempts: 1e6, Delay: time.Millisecond, MaxDelay: time.Millisecond}))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Kill()
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(client.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the end of the daemon", func() bool { return client.PID() == 0 })
	answered := make(chan error)
	go func() {
		_, err := client.Health(bounded(t))
		answered <- err
	}()
	install()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if client.PID() == 0 {
		t.Error("no daemon has answered")
	}
}

func TestAStartEndsWithItsContext(t *testing.T) {
	before, _ := held()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := upscaled.Start(ctx, upscaled.WithCommand("sleep", "600"))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	waitUntil(t, "the end of its goroutines", func() bool { now, _ := held(); return now <= before })
}

func TestACloseLetsAcceptedJobsFinish(t *testing.T) {
	t.Parallel()
	client, ctx := startFake(t), bounded(t)
	family := familyOf(client.PID())
	call, err := client.Submit(ctx, fake(upscaled.FakeConfig{Steps: upscaled.Ptr(5), StepS: 0.02}))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if _, err := call.Wait(ctx); err != nil {
		t.Error(err)
	}
	_, err = client.Upscale(ctx, fake(upscaled.FakeConfig{}))
	if !errors.Is(err, upscaled.CodeShuttingDown) || !errors.Is(err, upscaled.ErrClosed) {
		t.Errorf("%v", err)
	}
	if _, err = client.Health(ctx); !errors.Is(err, upscaled.ErrClosed) {
		t.Errorf("%v", err)
	}
	waitGone(t, family)
}

func TestAKillEndsWhatAJobHasStarted(t *testing.T) {
	t.Parallel()
	client, ctx := startFake(t), bounded(t)
	call := submitRunning(t, client, hangs)
	var family []int
	waitUntil(t, "the job's child process", func() bool {
		family = familyOf(client.PID())
		return len(family) >= hangingFamily
	})
	client.Kill()
	if _, err := call.Wait(ctx); !errors.Is(err, upscaled.ErrDaemonGone) {
		t.Errorf("%v", err)
	}
	waitGone(t, family)
}

// TestMain lets this program run as a host, which the test kills, or as a daemon.
func TestMain(m *testing.M) {
	if os.Getenv("UPSCALED_TEST_DAEMON") != "" {
		beADaemon()
		return
	}
	if os.Getenv("UPSCALED_TEST_HOST") != "" {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		client, err := upscaled.Start(ctx, upscaled.WithArgs("--methods", "fake"))
		if err != nil {
			panic(err)
		}
		call, err := client.Submit(ctx, fake(hangs))
		if err != nil {
			panic(err)
		}
		family := familyOf(client.PID())
		for len(family) < hangingFamily && ctx.Err() == nil {
			family = familyOf(client.PID())
		}
		_ = json.NewEncoder(os.Stdout).Encode(family)
		_, _ = call.Wait(ctx)
		return
	}
	os.Exit(m.Run())
}

func TestAHostKilledLeavesNoDescendant(t *testing.T) {
	t.Parallel()
	host := exec.Command(os.Args[0])
	host.Env = append(os.Environ(), "UPSCALED_TEST_HOST=1")
	stdout, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	var family []int
	if err != nil || json.Unmarshal(line, &family) != nil || len(family) < hangingFamily {
		t.Errorf("%s: %v", line, err)
	}
	_ = host.Process.Kill()
	_ = host.Wait()
	waitGone(t, family)
}

func TestThousandsOfRequestsLeaveNothingBehind(t *testing.T) {
	client, ctx := startFake(t), bounded(t)
	request := func(int) {
		if _, err := client.Upscale(ctx, fake(upscaled.FakeConfig{Steps: upscaled.Ptr(0)})); err != nil {
			t.Error(err)
		}
	}
	inFlight(200, request)
	goroutines, files := held()
	inFlight(2000, request)
	waitUntil(t, "the end of their goroutines", func() bool {
		g, f := held()
		return g <= goroutines && f <= files
	})
}

func TestAClosedClientLeavesNoGoroutineAndNoFile(t *testing.T) {
	goroutines, files := held()
	for i := 0; i < 3; i++ {
		startFake(t).Close()
	}
	waitUntil(t, "the end of its goroutines", func() bool {
		g, f := held()
		return g <= goroutines && f <= files
	})
}

func TestMessagesAndLogRecordsComeAsTheyAre(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var types, logs []string
	client := startFake(t,
		upscaled.WithMessages(func(m upscaled.Message) {
			mu.Lock()
			defer mu.Unlock()
			types = append(types, m.Type)
		}),
		upscaled.WithLog(func(r upscaled.LogRecord) {
			mu.Lock()
			defer mu.Unlock()
			logs = append(logs, fmt.Sprint(r["text"]))
		}))
	if _, err := client.Upscale(bounded(t), fake(upscaled.FakeConfig{PrintText: "a library's print"})); err != nil {
		t.Fatal(err)
	}
	client.Close()
	if got := strings.Join(types, " "); !strings.Contains(got, "accepted") || !strings.Contains(got, "result") {
		t.Errorf("messages: %v", got)
	}
	if !strings.Contains(strings.Join(logs, "\n"), "a library's print") {
		t.Errorf("logs: %v", logs)
	}
}
