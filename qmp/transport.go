package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// maxLine bounds one message of QEMU. The largest known one, the reply to query-qmp-schema, is about
// 0.2 MiB.
const maxLine = 16 << 20

// transport is the QMP wire: one JSON object per line each way, replies matched to commands by id
// (QEMU docs/interop/qmp-spec). One goroutine reads for the whole life of the connection and waits
// for nobody. docs/decisions/0003-qmp-transport.md says why this is not a library's.
type transport struct {
	conn    net.Conn
	version Version
	oob     bool
	events  *fanout
	done    chan struct{}

	mu     sync.Mutex
	calls  map[uint64]*call
	next   uint64
	unsent []byte // the rest of a command whose caller had no time to write it all
	err    error
}

type call struct {
	id   uint64
	c    chan reply // buffered, exactly one reply
	late func()     // not nil when the caller gave up; called when the reply comes; must not block
}

type reply struct {
	value json.RawMessage
	fault *fault
	err   error
}

type fault struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// message is any line of QEMU's.
type message struct {
	QMP *struct {
		Version struct {
			QEMU    struct{ Major, Minor, Micro int }
			Package string
		}
		Capabilities []string
	}
	Event     string
	Timestamp struct{ Seconds, Microseconds int64 }
	Data      json.RawMessage
	Return    json.RawMessage
	Error     *fault
	ID        *uint64
}

type command struct {
	Execute string `json:"execute,omitempty"`
	ExecOOB string `json:"exec-oob,omitempty"`
	Args    any    `json:"arguments,omitempty"`
	ID      uint64 `json:"id"`
}

// newTransport negotiates on conn and starts its reader. It takes conn over only when it succeeds.
func newTransport(ctx context.Context, conn net.Conn, events *fanout) (*transport, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	t := &transport{conn: conn, events: events, done: make(chan struct{}), calls: make(map[uint64]*call)}
	r := bufio.NewReaderSize(conn, 64<<10)
	err := t.negotiate(r)
	if !stop() { // the deadline struck, whatever it interrupted
		err = fmt.Errorf("%w: another client may hold the monitor, or QEMU hangs", noReply(ctx))
	}
	if err != nil {
		return nil, err
	}
	go t.read(r)
	return t, nil
}

func (t *transport) negotiate(r *bufio.Reader) error {
	line, err := readLine(r)
	if err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil || m.QMP == nil {
		return fmt.Errorf("not a QMP greeting: %.100q", line)
	}
	q := m.QMP.Version
	t.version = Version{Major: q.QEMU.Major, Minor: q.QEMU.Minor, Micro: q.QEMU.Micro, Package: q.Package}
	t.oob = slices.Contains(m.QMP.Capabilities, "oob")
	var args any
	if t.oob {
		args = map[string][]string{"enable": {"oob"}}
	}
	b, err := json.Marshal(command{Execute: "qmp_capabilities", Args: args, ID: t.next})
	if err != nil {
		return err
	}
	if _, err := t.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("send qmp_capabilities: %w", err)
	}
	for {
		line, err := readLine(r)
		if err != nil {
			return fmt.Errorf("read reply to qmp_capabilities: %w", err)
		}
		m = message{}
		if err := json.Unmarshal(line, &m); err != nil {
			return fmt.Errorf("unreadable reply to qmp_capabilities: %.100q", line)
		}
		switch {
		case m.Event != "":
			t.publish(&m)
		case m.Error != nil:
			return fmt.Errorf("qmp_capabilities refused: %s", m.Error.Desc)
		default:
			return nil
		}
	}
}

// send registers and writes one command. The end of ctx ends a write that blocks, but never the connection: it may be the only
// hold on the only copy of a guest. A command of which a part is written goes on with the next one; one that is not
// begun is taken back.
func (t *transport) send(ctx context.Context, name string, args any, oob bool) (*call, error) {
	cmd := command{Execute: name, Args: args}
	if oob {
		cmd.Execute, cmd.ExecOOB = "", name
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return nil, t.err
	}
	t.next++
	cmd.ID = t.next
	b, err := json.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("marshal arguments: %w", err)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: not sent, there was no time left", noReply(ctx))
	}
	c := &call{id: cmd.ID, c: make(chan reply, 1)}
	t.calls[c.id] = c
	before := len(t.unsent)
	b = append(append(t.unsent, b...), '\n')
	d, _ := ctx.Deadline() // it may have passed by now
	t.conn.SetWriteDeadline(d)
	n, err := t.conn.Write(b)
	switch {
	case err == nil:
		t.unsent = nil
	case !errors.Is(err, os.ErrDeadlineExceeded):
		delete(t.calls, c.id)
		err = fmt.Errorf("%w: write: %w", ErrClosed, err)
		t.fail(err)
		return nil, err
	case n <= before:
		delete(t.calls, c.id)
		t.unsent = b[n:before:before]
		return nil, fmt.Errorf("%w: not sent, QEMU takes no command", noReply(ctx))
	default:
		t.unsent = b[n:]
	}
	return c, nil
}

// abandon gives a call up and has late called when its reply comes after all; false means that the
// reply is already in c.c.
func (t *transport) abandon(c *call, late func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, pending := t.calls[c.id]
	if pending {
		c.late = late
	}
	return pending
}

func (t *transport) read(r *bufio.Reader) {
	for {
		line, err := readLine(r)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w by QEMU", ErrClosed)
			} else {
				err = fmt.Errorf("%w: %w", ErrClosed, err)
			}
			t.close(err)
			return
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			t.close(fmt.Errorf("%w: unreadable message %.100q: %w", ErrClosed, line, err))
			return
		}
		switch {
		case m.Event != "":
			t.publish(&m)
		case m.ID != nil:
			t.answer(&m)
		case m.Error != nil:
			// Without an id QEMU could not parse what we sent: no command can be trusted any more.
			t.close(fmt.Errorf("%w: QEMU could not read a command: %s", ErrClosed, m.Error.Desc))
			return
		}
	}
}

func (t *transport) publish(m *message) {
	t.events.publish(Event{
		Name: m.Event,
		Time: time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000),
		Data: m.Data,
	})
}

func (t *transport) answer(m *message) {
	t.mu.Lock()
	c := t.calls[*m.ID]
	delete(t.calls, *m.ID)
	defer t.mu.Unlock()
	if c == nil {
		return
	}
	c.c <- reply{value: m.Return, fault: m.Error}
	if c.late != nil {
		c.late()
	}
}

func (t *transport) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

func (t *transport) close(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fail(err)
}

// fail needs t.mu.
func (t *transport) fail(err error) error {
	if t.err != nil {
		return nil
	}
	t.err = err
	cerr := t.conn.Close()
	for id, c := range t.calls {
		delete(t.calls, id)
		c.c <- reply{err: err}
	}
	t.events.close(err)
	close(t.done)
	return cerr
}

// readLine returns the next non-empty line in memory of its own.
func readLine(r *bufio.Reader) ([]byte, error) {
	var long []byte
	for {
		part, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if len(part)+len(long) > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		long = append(long, part...)
		if len(long) > maxLine {
			return nil, fmt.Errorf("message over %d bytes", maxLine)
		}
		if err != nil {
			continue
		}
		if line := bytes.TrimSpace(long); len(line) > 0 {
			return line, nil
		}
		long = long[:0]
	}
}
