package upscaled

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	// From the end of the process to the end of its streams, or the reverse. After that the group is killed.
	endGrace = time.Second
	// From SIGTERM to SIGKILL. It is short, because the close timeout is over already.
	termGrace = 2 * time.Second
	// Lines of stderr that are kept for the error: enough for a traceback.
	keptLines = 20
	// A longer line on stderr is not one of upscaled's log records.
	logLimitBytes = 1 << 20
)

// LogRecord is a line of the daemon's stderr: its fields if it is JSON, else {"text": …}.
type LogRecord map[string]any

// daemon is one daemon process: its streams, its process group, its end.
type daemon struct {
	channel *Channel
	command *exec.Cmd
	exited  chan struct{}
	// gone is closed when it has ended, and all of its output was read. err is set by then.
	gone chan struct{}
	err  *DaemonGoneError

	lastLines []string
}

// startDaemon starts the command. On gone it calls onGone, the last call of all.
func startDaemon(command *exec.Cmd, handle func(Message), log func(LogRecord), onGone func(*daemon)) (*daemon, *DaemonGoneError) {
	d := &daemon{command: command, exited: make(chan struct{}), gone: make(chan struct{})}
	var ours, theirs [3]*os.File
	var err error
	for i := range ours {
		if ours[i], theirs[i], err = os.Pipe(); err != nil {
			closeAll(ours, theirs)
			return nil, &DaemonGoneError{Status: -1, Err: err}
		}
	}
	ours[0], theirs[0] = theirs[0], ours[0]
	command.Stdin, command.Stdout, command.Stderr = theirs[0], theirs[1], theirs[2]
	// A group of its own: a terminal's Ctrl-C goes to the host alone, and the whole group can be killed.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		closeAll(ours, theirs)
		return nil, &DaemonGoneError{Status: -1, Err: err}
	}
	closeAll(theirs)
	d.channel = NewChannel(ours[1], ours[0], handle)
	logEnded := make(chan struct{})
	go func() {
		defer close(logEnded)
		_ = readLines(ours[2], logLimitBytes, func(line []byte) { d.takeLog(line, log) }, func([]byte) error { return nil })
	}()
	go func() {
		err = command.Wait()
		// Processes that it started may still run and hold our pipes open.
		d.kill()
		close(d.exited)
	}()
	go func() {
		select {
		case <-d.exited:
		case <-d.channel.Ended():
			if d.channel.Err() != nil || !within(endGrace, d.exited) {
				d.kill()
			}
		}
		<-d.exited
		if !within(endGrace, d.channel.Ended(), logEnded) {
			// A process outside of the group still has these pipes.
			closeAll(ours)
		}
		<-d.channel.Ended()
		<-logEnded
		closeAll(ours)
		if fault := d.channel.Err(); fault != nil {
			err = fault
		} else if err == nil {
			err = errExited
		}
		d.err = &DaemonGoneError{command.ProcessState.ExitCode(), strings.Join(d.lastLines, "\n"), err}
		onGone(d)
		close(d.gone)
	}()
	return d, nil
}

type exitedError struct{}

func (exitedError) Error() string { return "it ended by itself" }

var errExited error = exitedError{}

// close ends it: by the end of its input, when the context ends by SIGTERM, at last by SIGKILL.
func (d *daemon) close(ctx context.Context) {
	d.channel.Close()
	select {
	case <-d.gone:
		return
	case <-ctx.Done():
	}
	_ = d.command.Process.Signal(syscall.SIGTERM)
	if !within(termGrace, d.gone) {
		d.kill()
	}
	<-d.gone
}

// kill ends it now, with every process that it started.
func (d *daemon) kill() {
	_ = syscall.Kill(-d.command.Process.Pid, syscall.SIGKILL)
}

func (d *daemon) takeLog(line []byte, log func(LogRecord)) {
	d.lastLines = append(d.lastLines, string(line))
	if len(d.lastLines) > keptLines {
		d.lastLines = d.lastLines[1:]
	}
	if log == nil {
		return
	}
	var record LogRecord
	if json.Unmarshal(line, &record) != nil || record == nil {
		record = LogRecord{"text": string(line)}
	}
	log(record)
}

// within reports whether all of them are closed in time.
func within(timeout time.Duration, all ...<-chan struct{}) bool {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for _, one := range all {
		select {
		case <-one:
		case <-timer.C:
			return false
		}
	}
	return true
}

func closeAll(files ...[3]*os.File) {
	for _, three := range files {
		for _, file := range three {
			if file != nil {
				_ = file.Close()
			}
		}
	}
}
