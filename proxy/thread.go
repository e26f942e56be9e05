package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned by every call on a closed Proxy.
var ErrClosed = errors.New("proxy is closed")

// thread is the one OS thread that owns a pair's data path, with a queue of
// calls that other goroutines want carried out on it.
type thread struct {
	wakefd int

	mu     sync.Mutex
	calls  []func()
	closed bool

	done chan struct{}
}

func newThread() (*thread, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return &thread{wakefd: fd, done: make(chan struct{})}, nil
}

// post queues fn for the thread. It reports whether the thread will run it.
func (t *thread) post(fn func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.calls = append(t.calls, fn)
	if len(t.calls) == 1 {
		one := [8]byte{1}
		unix.Write(t.wakefd, one[:]) // fails only when a wake-up is pending already
	}
	return true
}

// call runs fn on the thread and waits for the error that fn hands to its
// argument, now or later.
func (t *thread) call(ctx context.Context, fn func(reply func(error))) error {
	ch := make(chan error, 1)
	if !t.post(func() {
		fn(func(err error) {
			select {
			case ch <- err:
			default:
			}
		})
	}) {
		return ErrClosed
	}
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-t.done:
		select {
		case err := <-ch:
			return err
		default:
			return ErrClosed
		}
	}
}

// runCalls carries out what was posted.
func (t *thread) runCalls() {
	var drain [8]byte
	unix.Read(t.wakefd, drain[:])
	for {
		t.mu.Lock()
		calls := t.calls
		t.calls = nil
		t.mu.Unlock()
		if len(calls) == 0 {
			return
		}
		for _, fn := range calls {
			fn()
		}
	}
}

// close makes the thread refuse further calls and wakes it. It may be called
// again: the descriptor that wakes is no longer the thread's then.
func (t *thread) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	one := [8]byte{1}
	unix.Write(t.wakefd, one[:])
}

func (t *thread) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// run locks the goroutine to its thread and turns the loop until close. Each
// turn gets the descriptors that are ready.
func (t *thread) run(loop interface {
	// pollSet returns what to wait for and for how long (0: not at all; below 0: for ever).
	pollSet(set []unix.PollFd) ([]unix.PollFd, time.Duration)
	turn(set []unix.PollFd)
	stop()
}, setup func() error, ready chan<- error) {
	// Not unlocked: a thread that changed its namespace must end with its goroutine.
	runtime.LockOSThread()
	defer close(t.done)
	if setup != nil {
		if err := setup(); err != nil {
			unix.Close(t.wakefd)
			ready <- err
			return
		}
	}
	ready <- nil
	var set []unix.PollFd
	for {
		set = append(set[:0], unix.PollFd{Fd: int32(t.wakefd), Events: unix.POLLIN})
		var wait time.Duration
		set, wait = loop.pollSet(set)
		if err := poll(set, wait); err != nil {
			panic(fmt.Sprintf("proxy: poll %v: %v", set, err)) // a descriptor of ours is bad: a bug
		}
		if set[0].Revents != 0 {
			t.runCalls()
		}
		if t.isClosed() {
			break
		}
		loop.turn(set[1:])
	}
	loop.stop()
	t.mu.Lock()
	calls := t.calls
	t.calls = nil
	t.mu.Unlock()
	_ = calls // their callers learn of the end from done
	unix.Close(t.wakefd)
}

func poll(set []unix.PollFd, wait time.Duration) error {
	var ts *unix.Timespec
	if wait >= 0 {
		t := unix.NsecToTimespec(int64(wait))
		ts = &t
	}
	_, err := unix.Ppoll(set, ts, nil)
	if err == unix.EINTR {
		for i := range set {
			set[i].Revents = 0
		}
		return nil
	}
	return err
}

// started is the origin of monotonic.
var started = time.Now()

// monotonic is the time that the engines count in: nanoseconds of the monotonic clock, from an hour before the
// process began, so that it is never 0.
func monotonic() int64 { return int64(time.Since(started) + time.Hour) }

// realtime is the clock of the kernel's frame timestamps and of QEMU's events, ns.
func realtime() int64 { return time.Now().UnixNano() }
