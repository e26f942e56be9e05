package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a monitor connection; nil means all defaults.
type Options struct {
	// Timeout bounds a command whose context has no deadline. Default 10 s.
	Timeout time.Duration
}

const (
	defaultTimeout = 10 * time.Second
	// QEMU reads at most 8 commands ahead when out-of-band execution is on (monitor/qmp.c
	// QMP_REQ_QUEUE_LEN_MAX) and then stops reading, out-of-band ones too. Commands that were given
	// up but not answered stay in that queue, so there may never be that many of them.
	maxUnanswered = 6
)

// Monitor is one QMP connection. It is safe for use by many goroutines; ordinary commands run one at
// a time in the order of the calls, out-of-band ones beside them.
type Monitor struct {
	path    string
	timeout time.Duration
	tr      *transport
	events  fanout
	turn    chan struct{} // holds one token: the right to run an ordinary command
	unans   atomic.Int32  // commands given up, reply still due

	mu   sync.Mutex
	busy string // command that has the turn
	from time.Time
}

// Dial connects to the QMP socket at path and negotiates, out-of-band execution included where QEMU
// offers it. QEMU serves one client per socket: while another one is connected, Dial waits, until
// ctx (or 10 s) ends.
func Dial(ctx context.Context, path string, opt *Options) (*Monitor, error) {
	m := newMonitor(path, opt)
	ctx, cancel := m.bound(ctx)
	defer cancel()
	conn, err := connect(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := m.negotiate(ctx, conn); err != nil {
		return nil, err
	}
	return m, nil
}

func newMonitor(path string, opt *Options) *Monitor {
	m := &Monitor{path: path, timeout: defaultTimeout, turn: make(chan struct{}, 1)}
	if opt != nil && opt.Timeout > 0 {
		m.timeout = opt.Timeout
	}
	return m
}

func connect(ctx context.Context, path string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to QMP socket: %w", err)
	}
	return conn, nil
}

// negotiate takes conn over, also when it fails.
func (m *Monitor) negotiate(ctx context.Context, conn net.Conn) (err error) {
	if m.tr, err = newTransport(ctx, conn, &m.events); err != nil {
		conn.Close()
		return fmt.Errorf("negotiate on QMP socket %s: %w", m.path, err)
	}
	m.turn <- struct{}{}
	return nil
}

func (m *Monitor) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, m.timeout)
}

// Version is what QEMU said in its greeting.
func (m *Monitor) Version() Version { return m.tr.version }

// Run executes one command. args is marshalled to its arguments object (nil for none); the returned
// value is unmarshalled into result unless that is nil. A failure is an *[Error]. When ctx ends
// first the command may still take effect: the error wraps [ErrNoReply], and the connection stays
// usable, as replies are matched by id.
func (m *Monitor) Run(ctx context.Context, command string, args, result any) error {
	start := time.Now()
	ctx, cancel := m.bound(ctx)
	defer cancel()
	fail := func(err error) error { return &Error{Command: command, Elapsed: time.Since(start), Cause: err} }

	select {
	case <-m.turn:
	case <-m.tr.done:
		return fail(m.tr.Err())
	case <-ctx.Done():
		return fail(fmt.Errorf("%w: monitor busy with %s", noReply(ctx), m.current()))
	}
	defer func() { m.turn <- struct{}{} }()
	if n := m.unans.Load(); n >= maxUnanswered {
		return fail(fmt.Errorf("%w: %d earlier commands are not answered", ErrNoReply, n))
	}
	m.mu.Lock()
	m.busy, m.from = command, start
	m.mu.Unlock()
	return m.roundTrip(ctx, command, args, result, false, start)
}

// RunOOB executes a command out of band: QEMU's monitor thread runs it even while the main loop
// hangs. Only few commands can (of those that colod needs, yank).
func (m *Monitor) RunOOB(ctx context.Context, command string, args, result any) error {
	start := time.Now()
	ctx, cancel := m.bound(ctx)
	defer cancel()
	if !m.tr.oob {
		return &Error{Command: command, Cause: errors.New("QEMU offers no out-of-band execution on this monitor")}
	}
	return m.roundTrip(ctx, command, args, result, true, start)
}

func (m *Monitor) roundTrip(ctx context.Context, command string, args, result any, oob bool, start time.Time) error {
	fail := func(err error) error { return &Error{Command: command, Elapsed: time.Since(start), Cause: err} }
	call, err := m.tr.send(ctx, command, args, oob)
	if err != nil {
		return fail(err)
	}
	var r reply
	select {
	case r = <-call.c:
	case <-ctx.Done():
		m.unans.Add(1)
		if m.tr.abandon(call, func() { m.unans.Add(-1) }) {
			return fail(noReply(ctx))
		}
		m.unans.Add(-1)
		r = <-call.c // it came while we gave up
	}
	switch {
	case r.err != nil:
		return fail(r.err)
	case r.fault != nil:
		return &Error{Command: command, Class: r.fault.Class, Desc: r.fault.Desc, Elapsed: time.Since(start)}
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(r.value, result); err != nil {
		return fail(fmt.Errorf("unexpected reply %.200s: %w", r.value, err))
	}
	return nil
}

// Unanswered is how many commands were given up whose reply has not come yet. It goes down when QEMU
// answers after all.
func (m *Monitor) Unanswered() int { return int(m.unans.Load()) }

func (m *Monitor) current() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprintf("%s for %v", m.busy, time.Since(m.from).Round(time.Millisecond))
}

// noReply keeps both facts: that the state is unknown, and which end of the context it was.
func noReply(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%w (%w)", ErrNoReply, context.Canceled)
	}
	return ErrNoReply
}

// Subscribe returns the events from now on. n bounds those not yet read (default 1024); a subscriber
// that falls further behind is cut off with [ErrOverflow]. An event that QEMU sent before a reply is
// in the queue before Run returns that reply.
func (m *Monitor) Subscribe(n int) *Subscription { return m.events.subscribe(n) }

// Done is closed when the connection ended. Err then says why.
func (m *Monitor) Done() <-chan struct{} { return m.tr.done }

// Err returns nil while the connection is live.
func (m *Monitor) Err() error { return m.tr.Err() }

// Close ends the connection; commands under way fail with [ErrClosed]. The VM is not touched.
func (m *Monitor) Close() error { return m.tr.close(ErrClosed) }
