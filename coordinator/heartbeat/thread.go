package heartbeat

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// settings are the checked options.
type settings struct {
	Listen            []netip.AddrPort
	Interval, Timeout time.Duration
	// Feed is how long the thread may go without being fed before it falls
	// silent; 0: for ever.
	Feed time.Duration
}

// thread is the side of the service that others call.
type thread struct {
	settings
	own   bool // the process is there for it alone
	emit  func(Event)
	start time.Time
	is    info

	mu     sync.Mutex // held for moments only: the thread takes it too
	wakefd int
	calls  []func(*loop)
	closed bool

	done chan struct{} // the thread has ended
}

// startThread starts the thread; own says that this process is there for it alone, so that any of its threads may carry it.
func startThread(set settings, own bool, setup func() error, emit func(Event)) (*thread, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	t := &thread{settings: set, own: own, emit: emit, start: time.Now(), wakefd: fd, done: make(chan struct{})}
	ready := make(chan error, 1)
	go t.run(setup, ready)
	if err := <-ready; err != nil {
		<-t.done
		return nil, err
	}
	return t, nil
}

func (t *thread) info() info { return t.is }

func (t *thread) addPeer(name string, addrs []netip.AddrPort) error {
	return t.call(func(l *loop) error { return l.addPeer(name, addrs) })
}

func (t *thread) removePeer(name string) error {
	return t.call(func(l *loop) error { l.removePeer(name); return nil })
}

func (t *thread) expect(peer string, k Keys) error {
	return t.call(func(l *loop) error { return l.expect(peer, k) })
}

func (t *thread) use(peer string, k Keys) error {
	return t.call(func(l *loop) error { return l.use(peer, k) })
}

func (t *thread) look(peer string) (v view, err error) {
	err = t.call(func(l *loop) error { v = l.view(peer); return nil })
	return v, err
}

// feed says that the process that the thread serves runs.
func (t *thread) feed() { t.post(func(l *loop) { l.fed = l.now() }) }

func (t *thread) close() {
	t.mu.Lock()
	t.closed = true
	t.wake()
	t.mu.Unlock()
	<-t.done
}

// wake needs t.mu, so that the descriptor is still there.
func (t *thread) wake() {
	if t.wakefd >= 0 {
		one := [8]byte{1}
		unix.Write(t.wakefd, one[:]) // fails only when a wake-up is pending already
	}
}

// ended is called by the thread at its end.
func (t *thread) ended() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	unix.Close(t.wakefd)
	t.wakefd = -1
}

func (t *thread) post(fn func(*loop)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.calls = append(t.calls, fn)
	if len(t.calls) == 1 {
		t.wake()
	}
	return true
}

func (t *thread) call(fn func(*loop) error) error {
	ch := make(chan error, 1)
	if !t.post(func(l *loop) { ch <- fn(l) }) {
		return ErrClosed
	}
	select {
	case err := <-ch:
		return err
	case <-t.done:
		select {
		case err := <-ch:
			return err
		default:
			return fmt.Errorf("%w meanwhile", ErrClosed)
		}
	}
}
