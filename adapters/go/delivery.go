package upscaled

import (
	"errors"
	"sort"
	"time"
)

// The way of a call, from the client to a daemon and to its end:
//
//	register ─> deliver ─> on the wire ─> accepted ─> settled
//	              ▲            │  │                      ▲
//	              │            │  └── queue_full ─> refused: again when a job of ours has ended
//	              └── lost <───┘ the daemon ended before it accepted the job
//
// A cancel ends a call that is not on the wire at once. On the wire the daemon's answer ends it, or the
// cancel grace.

// register takes the call's id.
func (c *Client) register(call *Call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refusalLocked(call.id); err != nil {
		return err
	}
	if c.calls[call.id] != nil {
		return localError(call.id, CodeDuplicateJob, "a job of that id is in flight", nil)
	}
	c.registered++
	call.number = c.registered
	c.calls[call.id] = call
	call.delivering = true
	return nil
}

// refusal is why the client takes no job; nil if it does.
func (c *Client) refusal(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refusalLocked(id)
}

func (c *Client) refusalLocked(id string) error {
	if c.closing {
		return closed(id)
	}
	if c.end != nil {
		return c.end
	}
	return nil
}

// deliver gives the call to a daemon: this one, or the one after it. The error is errStopped if stop was
// closed first; the job was not written then.
func (c *Client) deliver(call *Call, stop <-chan struct{}) error {
	for {
		d, line, changed, err := c.assign(call)
		if err != nil {
			return err
		}
		if d == nil {
			select {
			case <-changed:
			case <-stop:
				return errStopped
			}
			continue
		}
		switch err := d.channel.sendLine(stop, line); {
		case err == nil:
			if c.delivered(call, d) {
				return nil
			}
		case errors.Is(err, ErrClosed):
			return closed(call.id)
		case !errors.Is(err, ErrDaemonGone):
			return err
		}
		select {
		case <-d.gone:
		case <-stop:
			return errStopped
		}
	}
}

// assign gives the call the daemon, if there is one, and the line to send to it.
func (c *Client) assign(call *Call) (*daemon, []byte, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case call.settled:
		return nil, nil, nil, call.err
	case c.sealed:
		return nil, nil, nil, closed(call.id)
	}
	c.place(call, c.daemon)
	call.missed = false
	return c.daemon, call.line, c.changed, nil
}

// delivered notes that the call is on the wire; false if it has to be delivered again.
func (c *Client) delivered(call *Call, d *daemon) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Its answer may have come already: then the call is settled, or waits for room.
	if !call.settled && call.missed {
		call.lost++
		if call.lost < c.settings.restart.Attempts {
			return false
		}
		call.settle(nil, d.err)
	}
	call.delivering = false
	if c.closing {
		c.announce()
	}
	switch {
	case call.settled || !call.cancelling:
	case call.daemon == nil:
		call.settle(nil, cancelled(call.id, nil))
	default:
		go c.sendCancel(call, d)
	}
	return true
}

// place notes which daemon has the call. It is called with the lock held.
func (c *Client) place(call *Call, d *daemon) {
	if call.daemon != nil {
		c.onWire--
	}
	if d != nil {
		c.onWire++
	}
	call.daemon = d
	if c.closing {
		c.announce()
	}
}

// redeliver sends the calls of c.lost again, one after the other. It is called with the lock held.
func (c *Client) redeliver() {
	sort.Slice(c.lost, func(i, j int) bool { return c.lost[i].number < c.lost[j].number })
	if c.redelivering || len(c.lost) == 0 {
		return
	}
	c.redelivering = true
	go func() {
		for call := c.nextLost(); call != nil; call = c.nextLost() {
			err := c.deliver(call, call.stop)
			if errors.Is(err, errStopped) {
				err = cancelled(call.id, nil)
			}
			if err != nil {
				c.fail(call, err)
			}
		}
	}()
}

func (c *Client) nextLost() *Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.lost) > 0 {
		call := c.lost[0]
		c.lost = c.lost[1:]
		if !call.settled {
			call.delivering = true
			return call
		}
	}
	c.redelivering = false
	return nil
}

// cancel ends the call: at once, or by the daemon's answer, or after the cancel grace.
func (c *Client) cancel(call *Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call.settled || call.cancelling {
		return
	}
	call.cancelling = true
	close(call.stop)
	switch {
	case call.delivering:
		// `deliver` sees it.
	case call.daemon == nil:
		call.settle(nil, cancelled(call.id, nil))
	default:
		go c.sendCancel(call, call.daemon)
	}
}

func (c *Client) sendCancel(call *Call, d *daemon) {
	timer := time.AfterFunc(c.settings.cancelGrace, func() { c.abandon(call) })
	defer timer.Stop()
	// If this fails the call is settled all the same.
	_ = d.channel.Send(call.done, Cancel{Type: "cancel", JobID: call.id})
	<-call.done
}

// abandon settles a call whose cancel the daemon does not answer. Its id stays taken until it does.
func (c *Client) abandon(call *Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !call.settled {
		call.end(nil, localError(call.id, CodeCancelled, "the job was cancelled, and the daemon did not answer", nil))
	}
}

// handleAccepted notes that the daemon has the job from here on.
func (c *Client) handleAccepted(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.calls[id]
	if call == nil || call.accepted {
		return
	}
	call.accepted, call.line = true, nil
	c.accepted++
	if c.closing {
		c.announce()
	}
}

// handleEnd settles a call by the daemon's result or error.
func (c *Client) handleEnd(id string, result *Result, failed *JobError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.calls[id]
	switch {
	case call == nil:
		return
	case failed == nil:
		call.settle(result, nil)
	case failed.Message.Code == CodeQueueFull && c.mayWait(call):
		c.place(call, nil)
		c.refused = append(c.refused, call)
		return
	default:
		call.settle(nil, failed)
	}
	// There is room for one more.
	if len(c.refused) > 0 {
		c.lost = append(c.lost, c.refused[0])
		c.refused = c.refused[1:]
		c.redeliver()
	}
}

// mayWait reports whether a job that a full queue refused waits until another of our jobs has ended.
func (c *Client) mayWait(call *Call) bool {
	return !call.accepted && !call.cancelling && !call.settled && !c.sealed && c.onWire > 1
}

// handleLost is called with the lock held when a daemon has ended: what it had accepted is settled, and
// what it had not goes to the next one.
func (c *Client) handleLost(d *daemon) {
	for _, call := range c.calls {
		if call.daemon != d {
			continue
		}
		switch {
		case call.settled, call.accepted:
			call.settle(nil, d.err)
		case call.delivering:
			// `deliver` sees it.
			c.place(call, nil)
			call.missed = true
		case call.cancelling:
			call.settle(nil, cancelled(call.id, nil))
		default:
			c.place(call, nil)
			if call.lost++; call.lost >= c.settings.restart.Attempts {
				call.settle(nil, d.err)
			} else {
				c.lost = append(c.lost, call)
			}
		}
	}
	// The calls that it refused for its full queue go to the next one too.
	c.lost, c.refused = append(c.lost, c.refused...), nil
}

// fail settles a call that has no daemon.
func (c *Client) fail(call *Call, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	call.settle(nil, err)
}

// settle ends the call, if it has not ended, and frees its id. It is called with the lock held.
func (call *Call) settle(result *Result, err error) {
	c := call.client
	// It may have been settled before, and its id be another call's by now.
	if c.calls[call.id] == call {
		delete(c.calls, call.id)
		if call.accepted {
			c.accepted--
		}
	}
	c.place(call, nil)
	call.end(result, err)
}

// end is called with the lock held.
func (call *Call) end(result *Result, err error) {
	if call.settled {
		return
	}
	call.settled, call.line = true, nil
	call.result, call.err = result, err
	if call.files == nil {
		close(call.done)
		return
	}
	go func() {
		// Without the lock: the Writer is the caller's, and may take its time.
		result, err := call.files.finish(result, err)
		call.client.mu.Lock()
		defer call.client.mu.Unlock()
		call.result, call.err = result, err
		close(call.done)
	}()
}

func cancelled(id string, context error) *JobError {
	return localError(id, CodeCancelled, "the job was cancelled", context)
}

func closed(id string) *JobError {
	return localError(id, CodeShuttingDown, "the client is closed", ErrClosed)
}
