package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"colod/internal/osthread"
	"colod/internal/pollset"
)

// ErrClosed is returned by every call on a closed Proxy.
var ErrClosed = errors.New("proxy is closed")

// thread is the one goroutine that owns a pair's data path, with a queue of
// calls that other goroutines want carried out on it.
type thread struct {
	set    *pollset.Set
	wakefd int
	counts bool // of the processor time that its turns take
	turns  atomic.Uint64
	cpu    atomic.Int64 // ns

	mu     sync.Mutex
	calls  []func()
	closed bool

	done chan struct{}
}

func newThread(counts bool) (*thread, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	set, err := pollset.New()
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &thread{set: set, wakefd: fd, counts: counts, done: make(chan struct{})}, nil
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

// run turns the loop until close.
func (t *thread) run(loop interface {
	// watch adds what to wait for, and says for how long (0: not at all).
	watch(set *pollset.Set) time.Duration
	// turn does the work that is there; what the set has looked at and not found ready need not be asked.
	turn(set *pollset.Set)
	stop()
}) {
	defer close(t.done)
	set := t.set
	defer set.Close()
	for {
		set.Clear()
		set.Add(t.wakefd, pollset.In, t)
		if err := set.Wait(loop.watch(set)); err != nil {
			panic(fmt.Sprintf("proxy: %v", err)) // a descriptor of ours is bad: a bug
		}
		var began time.Duration
		if t.counts {
			runtime.LockOSThread() // the clock is that of one thread
			began = osthread.Time()
		}
		if set.Ready(t.wakefd) {
			t.runCalls()
		}
		if t.isClosed() {
			break
		}
		loop.turn(set)
		t.turns.Add(1)
		if t.counts {
			t.cpu.Add(int64(osthread.Time() - began))
			runtime.UnlockOSThread()
		}
	}
	loop.stop()
	t.mu.Lock()
	calls := t.calls
	t.calls = nil
	t.mu.Unlock()
	_ = calls // their callers learn of the end from done
	unix.Close(t.wakefd)
}

// started is the origin of monotonic.
var started = time.Now()

// monotonic is the time that the engines count in: nanoseconds of the monotonic clock, from an hour before the
// process began, so that it is never 0.
func monotonic() int64 { return int64(time.Since(started) + time.Hour) }

// realtime is the clock of the kernel's frame timestamps and of QEMU's events, ns.
func realtime() int64 { return time.Now().UnixNano() }
