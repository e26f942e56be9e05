package qmp

import (
	"encoding/json"
	"sync"
	"time"
)

// Names of the events that colod acts on (QEMU qapi/run-state.json, qapi/migration.json).
const (
	EventStop      = "STOP"      // vCPUs are paused
	EventResume    = "RESUME"    // stamped before devices and vCPUs start again
	EventShutdown  = "SHUTDOWN"  // see [ShutdownReason]
	EventReset     = "RESET"     // the guest was reset, by itself or by command
	EventPowerdown = "POWERDOWN" // the guest was asked to power off
	EventColoExit  = "COLO_EXIT" // see [ColoExit]
	EventWatchdog  = "WATCHDOG"  // the guest did not feed its watchdog device; data: action
	EventMigration = "MIGRATION"
)

// Event is one asynchronous message of QEMU.
type Event struct {
	Name string
	// Time is QEMU's stamp: CLOCK_REALTIME of QEMU's host, microseconds. Stamps of two hosts are
	// not comparable.
	Time time.Time
	Data json.RawMessage // the event's data object; nil when it has none
}

// ShutdownReason returns the cause of a SHUTDOWN event, such as guest-shutdown, host-qmp-quit,
// guest-reset or host-signal, and whether the guest asked for it; "" for any other event.
func (e Event) ShutdownReason() (reason string, guest bool) {
	if e.Name != EventShutdown {
		return "", false
	}
	var d struct {
		Reason string `json:"reason"`
		Guest  bool   `json:"guest"`
	}
	_ = json.Unmarshal(e.Data, &d) // an unreadable one is no reason
	return d.Reason, d.Guest
}

// PlannedEnd reports whether the event says that the VM ends because its guest or an operator wanted
// it to, so that no takeover may follow: a machine that was switched off must not come back to life.
func (e Event) PlannedEnd() bool {
	switch reason, _ := e.ShutdownReason(); reason {
	case "guest-shutdown", "host-qmp-quit", "guest-reset":
		return true
	default:
		return false
	}
}

// ColoExit returns mode (primary or secondary) and reason (request or error) of a COLO_EXIT event.
func (e Event) ColoExit() (mode, reason string) {
	if e.Name != EventColoExit {
		return "", ""
	}
	var d struct{ Mode, Reason string }
	_ = json.Unmarshal(e.Data, &d)
	return d.Mode, d.Reason
}

// Subscription receives events in QEMU's order, from the moment it was made.
type Subscription struct {
	// C is closed when the subscription ends; Err then says why.
	C <-chan Event

	c    chan Event
	from *fanout
	err  error // guarded by from.mu
	done bool  // guarded by from.mu
}

// Err returns nil while the subscription is live and after Close, [ErrOverflow] when the subscriber
// was too slow, [ErrClosed] when the monitor ended.
func (s *Subscription) Err() error {
	s.from.mu.Lock()
	defer s.from.mu.Unlock()
	return s.err
}

// Close ends the subscription and closes C. It may be called more than once.
func (s *Subscription) Close() {
	s.from.mu.Lock()
	defer s.from.mu.Unlock()
	s.from.end(s, nil)
}

// fanout hands each event to every subscriber without ever waiting for one of them: replies stand
// behind events on the same socket, so a slow subscriber is cut off, loudly, instead.
type fanout struct {
	mu     sync.Mutex
	subs   map[*Subscription]struct{}
	closed error
}

const defaultQueue = 1024 // events; COLO makes two per checkpoint and side

func (f *fanout) subscribe(n int) *Subscription {
	if n <= 0 {
		n = defaultQueue
	}
	s := &Subscription{c: make(chan Event, n), from: f}
	s.C = s.c
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed != nil {
		f.end(s, f.closed)
		return s
	}
	if f.subs == nil {
		f.subs = make(map[*Subscription]struct{})
	}
	f.subs[s] = struct{}{}
	return s
}

// end needs f.mu.
func (f *fanout) end(s *Subscription, err error) {
	if s.done {
		return
	}
	s.done, s.err = true, err
	delete(f.subs, s)
	close(s.c)
}

func (f *fanout) publish(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs {
		select {
		case s.c <- e:
		default:
			f.end(s, ErrOverflow)
		}
	}
}

func (f *fanout) close(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed != nil {
		return
	}
	f.closed = err
	for s := range f.subs {
		f.end(s, err)
	}
}
