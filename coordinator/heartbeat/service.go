package heartbeat

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Defaults of [Options].
const (
	DefaultInterval = 50 * time.Millisecond
	DefaultTimeout  = 250 * time.Millisecond
)

// Options of a Service.
type Options struct {
	// Listen are the UDP addresses (host:port) of this node's paths, 1 to
	// MaxPaths; the first is that of path 0.
	Listen []string
	// Interval is the time between two pings on a path, 5 ms at least; Timeout the
	// silence after which a path, or a peer with all its paths, is down, two
	// intervals at least. 0 means the default.
	Interval, Timeout time.Duration
	// Events gets what happens, in order, on a goroutine of its own. It may
	// call the Service's methods but for Close.
	Events func(Event)
	// Setup, if set, runs first on the service's thread, for instance to enter a
	// network namespace.
	Setup func() error
}

// ErrClosed is returned by the methods of a closed Service.
var ErrClosed = errors.New("heartbeat service is closed")

// Service exchanges heartbeats with other nodes. Its methods are safe for use
// by many goroutines.
type Service struct {
	interval, timeout time.Duration
	emit              func(Event)
	start             time.Time

	wakefd int
	mu     sync.Mutex // held for moments only: the thread takes it too
	calls  []func(*loop)
	closed bool

	done  chan struct{} // the thread has ended
	sched string        // how the thread is scheduled
	local []netip.AddrPort

	queue *eventQueue
}

// New opens the sockets and starts the service; it knows no peer yet.
func New(opt Options) (*Service, error) {
	if opt.Interval == 0 {
		opt.Interval = DefaultInterval
	}
	if opt.Timeout == 0 {
		opt.Timeout = DefaultTimeout
	}
	switch {
	case len(opt.Listen) == 0 || len(opt.Listen) > MaxPaths:
		return nil, fmt.Errorf("start heartbeats: %d addresses, 1 to %d are possible", len(opt.Listen), MaxPaths)
	case opt.Interval < 5*time.Millisecond:
		return nil, fmt.Errorf("start heartbeats: interval %s is below 5ms", opt.Interval)
	case opt.Timeout < 2*opt.Interval:
		return nil, fmt.Errorf("start heartbeats: timeout %s is below two intervals of %s", opt.Timeout, opt.Interval)
	}
	listen, err := resolveAll(opt.Listen)
	if err != nil {
		return nil, fmt.Errorf("start heartbeats: %w", err)
	}
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("start heartbeats: %w", os.NewSyscallError("eventfd", err))
	}
	s := &Service{interval: opt.Interval, timeout: opt.Timeout, start: time.Now(), wakefd: fd, done: make(chan struct{}), queue: newEventQueue(opt.Events)}
	s.emit = s.queue.put
	ready := make(chan error, 1)
	go s.run(listen, opt.Setup, ready)
	if err := <-ready; err != nil {
		s.queue.close()
		return nil, fmt.Errorf("start heartbeats: %w", err)
	}
	return s, nil
}

// Scheduling says how the kernel schedules the service's thread.
func (s *Service) Scheduling() string { return s.sched }

// Local are the addresses that the paths are bound to.
func (s *Service) Local() []string {
	out := make([]string, len(s.local))
	for i, a := range s.local {
		out[i] = a.String()
	}
	return out
}

// AddPeer makes a node known, with its address on each path. A path that only
// one of the two nodes has an address for begins, or ends, at the last address
// of the other one. Nothing is sent before Use. A peer that is known already
// gets the new addresses; what was known of its paths is forgotten if they
// differ.
func (s *Service) AddPeer(name string, addrs []string) error {
	if len(addrs) == 0 || len(addrs) > MaxPaths {
		return fmt.Errorf("add node %s to heartbeats: %d addresses, 1 to %d are possible", name, len(addrs), MaxPaths)
	}
	to, err := resolveAll(addrs)
	if err != nil {
		return fmt.Errorf("add node %s to heartbeats: %w", name, err)
	}
	return s.call(func(l *loop) error { return l.addPeer(name, to) })
}

// RemovePeer forgets a node; no event of it is made afterwards.
func (s *Service) RemovePeer(name string) error {
	return s.call(func(l *loop) error { l.removePeer(name); return nil })
}

// Expect accepts packets of the peer that were made with the keys, besides those
// made with earlier ones, until the first with the new ones comes. A node
// expects keys before it tells the peer that it does, and uses them once the
// peer has told the same.
func (s *Service) Expect(peer string, k Keys) error {
	return s.call(func(l *loop) error { return l.expect(peer, k) })
}

// Use sends to the peer with the keys from now on.
func (s *Service) Use(peer string, k Keys) error {
	return s.call(func(l *loop) error { return l.use(peer, k) })
}

// Paths is the state of the paths to a peer, nil if it is not known.
func (s *Service) Paths(peer string) []PathStatus {
	var out []PathStatus
	_ = s.call(func(l *loop) error { out = l.status(peer); return nil }) // closed: none
	return out
}

// Peer reports whether a peer is up, and whether an answer of it has ever come.
func (s *Service) Peer(peer string) (up, known bool) {
	_ = s.call(func(l *loop) error { // closed: neither
		if p := l.peers[peer]; p != nil {
			up, known = p.up, p.known
		}
		return nil
	})
	return up, known
}

// Stats counts what the service met.
type Stats struct {
	Received uint64        // authentic packets
	Refused  uint64        // packets that were not, or came twice
	Turns    uint64        // of the thread's loop
	Late     time.Duration // most by which the thread woke later than it wanted to
	Slept    time.Duration // in all, when it woke later than an interval and a half
}

// Stats returns the counters.
func (s *Service) Stats() Stats {
	var st Stats
	_ = s.call(func(l *loop) error { st = l.stats; return nil }) // closed: none
	return st
}

// Alive runs through the service's thread; it reports whether that answered
// within the limit.
func (s *Service) Alive(limit time.Duration) bool {
	ch := make(chan struct{})
	if !s.post(func(*loop) { close(ch) }) {
		return false
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-ch:
		return true
	case <-t.C:
		return false
	}
}

// Close ends the service. No event comes afterwards.
func (s *Service) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.wake()
	s.mu.Unlock()
	<-s.done
	if !closed {
		s.queue.close()
	}
	return nil
}

// wake needs s.mu, so that the descriptor is still there.
func (s *Service) wake() {
	select {
	case <-s.done:
	default:
		one := [8]byte{1}
		unix.Write(s.wakefd, one[:]) // fails only when a wake-up is pending already
	}
}

func (s *Service) post(fn func(*loop)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.calls = append(s.calls, fn)
	if len(s.calls) == 1 {
		s.wake()
	}
	return true
}

func (s *Service) call(fn func(*loop) error) error {
	ch := make(chan error, 1)
	if !s.post(func(l *loop) { ch <- fn(l) }) {
		return ErrClosed
	}
	select {
	case err := <-ch:
		return err
	case <-s.done:
		select {
		case err := <-ch:
			return err
		default:
			return ErrClosed
		}
	}
}

func resolveAll(addrs []string) ([]netip.AddrPort, error) {
	out := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		u, err := net.ResolveUDPAddr("udp", a)
		if err != nil {
			return nil, fmt.Errorf("resolve address %q: %w", a, err)
		}
		ap := u.AddrPort()
		if !ap.Addr().IsValid() { // ":port"
			ap = netip.AddrPortFrom(netip.IPv6Unspecified(), ap.Port())
		}
		out[i] = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return out, nil
}

// eventQueue hands events to a function, in order, on its own goroutine; put
// never waits for that.
type eventQueue struct {
	mu     sync.Mutex
	events []Event
	closed bool
	wake   chan struct{}
	done   chan struct{}
}

func newEventQueue(fn func(Event)) *eventQueue {
	q := &eventQueue{wake: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(q.done)
		for range q.wake {
			for {
				q.mu.Lock()
				events := q.events
				q.events = nil
				closed := q.closed
				q.mu.Unlock()
				if closed {
					return
				}
				if len(events) == 0 {
					break
				}
				for _, e := range events {
					if fn != nil {
						fn(e)
					}
				}
			}
		}
	}()
	return q
}

func (q *eventQueue) put(e Event) {
	q.mu.Lock()
	q.events = append(q.events, e)
	q.mu.Unlock()
	q.poke()
}

func (q *eventQueue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *eventQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.poke()
	<-q.done
}
