package heartbeat

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
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
	// Command starts a process of its own for the heartbeats, by calling
	// ProcessMain at once; see there. Empty: they are a thread of this process.
	// It ends with this one, and stays silent while this one does not run.
	Command []string
	// Setup, if set, runs first on the service's thread, for instance to enter a
	// network namespace; not with Command, which inherits this process's.
	Setup func() error
}

// ErrClosed is returned by the methods of a closed Service.
var ErrClosed = errors.New("heartbeat service is closed")

// Service exchanges heartbeats with other nodes. Its methods are safe for use
// by many goroutines.
type Service struct {
	backend
	queue *eventQueue
	once  sync.Once
}

// backend is what exchanges the heartbeats: a thread, or a process with one.
type backend interface {
	addPeer(name string, addrs []netip.AddrPort) error
	removePeer(name string) error
	expect(peer string, k Keys) error
	use(peer string, k Keys) error
	look(peer string) (view, error)
	info() info
	close()
}

// view is what can be seen of the service and one peer.
type view struct {
	Up, Known bool
	Paths     []PathStatus
	Stats     Stats
}

// info does not change.
type info struct {
	Scheduling string
	Local      []netip.AddrPort
}

// New opens the sockets and starts the service; it knows no peer yet. Path 0
// must be there; the address of another one may come later.
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
	s := &Service{queue: newEventQueue(opt.Events)}
	set := settings{Listen: listen, Interval: opt.Interval, Timeout: opt.Timeout}
	if len(opt.Command) > 0 {
		s.backend, err = startProcess(opt.Command, set, s.queue.put)
	} else {
		s.backend, err = startThread(set, false, opt.Setup, s.queue.put)
	}
	if err != nil {
		s.queue.close()
		return nil, fmt.Errorf("start heartbeats: %w", err)
	}
	return s, nil
}

// Scheduling says how the kernel schedules the service's thread.
func (s *Service) Scheduling() string { return s.info().Scheduling }

// Local are the addresses that the paths are bound to.
func (s *Service) Local() []string {
	local := s.info().Local
	out := make([]string, len(local))
	for i, a := range local {
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
	if err := s.addPeer(name, to); err != nil {
		return fmt.Errorf("add node %s to heartbeats: %w", name, err)
	}
	return nil
}

// RemovePeer forgets a node; no event of it is made afterwards.
func (s *Service) RemovePeer(name string) error { return s.removePeer(name) }

// Expect accepts packets of the peer that were made with the keys, besides those
// made with earlier ones, until the first with the new ones comes. A node
// expects keys before it tells the peer that it does, and uses them once the
// peer has told the same.
func (s *Service) Expect(peer string, k Keys) error { return s.expect(peer, k) }

// Use sends to the peer with the keys from now on.
func (s *Service) Use(peer string, k Keys) error { return s.use(peer, k) }

// Paths is the state of the paths to a peer, nil if it is not known.
func (s *Service) Paths(peer string) []PathStatus {
	v, _ := s.look(peer) // closed: none
	return v.Paths
}

// Peer reports whether a peer is up, and whether an answer of it has ever come.
func (s *Service) Peer(peer string) (up, known bool) {
	v, _ := s.look(peer) // closed: neither
	return v.Up, v.Known
}

// Stats counts what the service met.
type Stats struct {
	Received uint64        // authentic packets
	Refused  uint64        // packets that were not, or came twice
	Turns    uint64        // of the thread's loop
	Late     time.Duration // most by which the thread woke later than it wanted to
	Slept    time.Duration // in all, when it woke later by an interval and a half
	Unfed    uint64        // how often it fell silent since the process that it serves did not run
}

// Stats returns the counters.
func (s *Service) Stats() Stats {
	v, _ := s.look("") // closed: none
	return v.Stats
}

// Check goes once through the service's thread and returns an error if that does not
// answer within the limit.
func (s *Service) Check(limit time.Duration) error {
	ch := make(chan error, 1)
	go func() {
		_, err := s.look("")
		ch <- err
	}()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case err := <-ch:
		return err
	case <-t.C:
		return fmt.Errorf("the heartbeats' thread has not answered for %s", limit)
	}
}

// Close ends the service. No event comes afterwards.
func (s *Service) Close() error {
	s.once.Do(func() {
		s.close()
		s.queue.close()
	})
	return nil
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
