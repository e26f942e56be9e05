package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"colod/qmp/qmptest"
)

func dialScript(t *testing.T, script string) *Monitor {
	t.Helper()
	m, err := Dial(testContext(t, 10*time.Second), qmptest.Script(t, script), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestRunReturnsValue(t *testing.T) {
	m := dialScript(t, `
		> query-status
		< {"status": "running", "running": true}
		> stop
		<
	`)
	ctx := testContext(t, 10*time.Second)
	if v := m.Version(); v.String() != "7.2.22" || v.Package != "fake" {
		t.Errorf("version %+v", v)
	}
	var s Status
	if err := m.Run(ctx, "query-status", nil, &s); err != nil || !s.Running || s.Status != "running" {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := m.Run(ctx, "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
}

func TestRunKeepsErrorClass(t *testing.T) {
	m := dialScript(t, `
		> yank
		! DeviceNotFound Instance 'migration' not found
	`)
	err := m.Run(testContext(t, 10*time.Second), "yank", nil, nil)
	var e *Error
	if !errors.As(err, &e) || e.Class != "DeviceNotFound" || e.Cause != nil || e.Command != "yank" {
		t.Fatalf("%#v", err)
	}
	if want := "run yank: Instance 'migration' not found (DeviceNotFound)"; err.Error() != want {
		t.Errorf("message %q, want %q", err, want)
	}
	if m.Err() != nil {
		t.Errorf("an error reply ended the monitor: %v", m.Err())
	}
}

// A command given up does not cost the connection, and its late reply is not taken for another's.
func TestLateReply(t *testing.T) {
	release := make(chan struct{})
	path := qmptest.Serve(t, qmptest.Greeting, func(c *qmptest.Conn, cmd qmptest.Command) {
		if cmd.Name == "slow" {
			<-release
		}
		_ = c.Return(cmd, `{"name": "`+cmd.Name+`"}`)
	})
	ctx := testContext(t, 30*time.Second)
	m, err := Dial(ctx, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := m.Run(short, "slow", nil, nil); !errors.Is(err, ErrNoReply) {
		t.Fatalf("got %v, want ErrNoReply", err)
	}
	close(release)
	for range 10 {
		var r struct{ Name string }
		if err := m.Run(ctx, "fast", nil, &r); err != nil || r.Name != "fast" {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if n := m.unans.Load(); n != 0 {
		t.Errorf("%d commands unanswered, want 0", n)
	}
}

// late is a context whose time is over and whose timer has not told so yet: on a busy machine there are such moments.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Millisecond), true }

// A question that comes too late is not asked; the connection, which may be the only hold on the guest, lives on.
func TestPassedDeadlineKeepsTheConnection(t *testing.T) {
	path := qmptest.Serve(t, qmptest.Greeting, func(c *qmptest.Conn, cmd qmptest.Command) { _ = c.Return(cmd, "") })
	ctx := testContext(t, 30*time.Second)
	m, err := Dial(ctx, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for range 3 {
		if _, err := m.tr.send(late{ctx}, "query-status", nil, false); !errors.Is(err, ErrNoReply) {
			t.Fatalf("got %v, want ErrNoReply", err)
		}
		if err := m.Run(ctx, "query-status", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// A command of which only a part was written in time goes on with the next one.
func TestCommandInParts(t *testing.T) {
	blocked, seen := make(chan struct{}), make(chan string, 10)
	read := sync.OnceFunc(func() { close(blocked) })
	defer read()
	path := qmptest.Serve(t, qmptest.Greeting, func(c *qmptest.Conn, cmd qmptest.Command) {
		if cmd.Name == "first" {
			<-blocked // what comes behind it is not read meanwhile
		}
		seen <- fmt.Sprint(cmd.Name, len(cmd.Args))
		_ = c.Return(cmd, "")
	})
	ctx := testContext(t, 30*time.Second)
	m, err := Dial(ctx, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	// unanswered asks with little time until QEMU has got a part at least: on a busy machine the time may be over before that.
	unanswered := func(n int, name string, args any) {
		t.Helper()
		for m.Unanswered() < n {
			short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			if err := m.Run(short, name, args, nil); !errors.Is(err, ErrNoReply) {
				t.Fatal(err)
			}
			cancel()
		}
	}
	unanswered(1, "first", nil)
	unanswered(2, "big", map[string]string{"x": strings.Repeat("y", 4<<20)}) // more than the socket holds
	if _, err := m.tr.send(late{ctx}, "taken-back", nil, false); !errors.Is(err, ErrNoReply) {
		t.Fatal(err)
	}
	read()
	if err := m.Run(ctx, "last", nil, nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first0", fmt.Sprint("big", 4<<20+8), "last0"} {
		if got := <-seen; got != want {
			t.Errorf("QEMU read %s, want %s", got, want)
		}
	}
	if n := m.Unanswered(); n != 0 {
		t.Errorf("%d commands unanswered", n)
	}
}

// QEMU stops reading when too many commands wait, out-of-band ones included: we stop before.
func TestUnansweredAreBounded(t *testing.T) {
	path := qmptest.Serve(t, qmptest.Greeting, func(c *qmptest.Conn, cmd qmptest.Command) {
		if cmd.OOB {
			_ = c.Return(cmd, "")
		}
	})
	ctx := testContext(t, 30*time.Second)
	m, err := Dial(ctx, path, &Options{Timeout: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	sent := func() uint64 {
		m.tr.mu.Lock()
		defer m.tr.mu.Unlock()
		return m.tr.next
	}
	for range maxUnanswered {
		if err := m.Run(context.Background(), "query-status", nil, nil); !errors.Is(err, ErrNoReply) {
			t.Fatal(err)
		}
	}
	before := sent()
	err = m.Run(context.Background(), "query-status", nil, nil)
	if !errors.Is(err, ErrNoReply) || !strings.Contains(err.Error(), "6 earlier commands") {
		t.Fatal(err)
	}
	if sent() != before {
		t.Error("one command too many was sent")
	}
	if err := m.RunOOB(ctx, "yank", nil, nil); err != nil {
		t.Errorf("out-of-band command beside hanging ones: %v", err)
	}
}

func TestBusyMonitorSaysWithWhat(t *testing.T) {
	got := make(chan struct{})
	path := qmptest.Serve(t, qmptest.Greeting, func(c *qmptest.Conn, cmd qmptest.Command) { close(got) })
	ctx := testContext(t, 30*time.Second)
	m, err := Dial(ctx, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan error, 1)
	go func() { first <- m.Run(ctx, "x-blockdev-change", nil, nil) }()
	<-got
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	err = m.Run(short, "query-status", nil, nil)
	if !errors.Is(err, ErrNoReply) || !strings.Contains(err.Error(), "monitor busy with x-blockdev-change") {
		t.Errorf("got %v", err)
	}
	m.Close()
	if err := <-first; !errors.Is(err, ErrClosed) {
		t.Errorf("Close left a command with %v", err)
	}
}

func TestCloseInMidCommand(t *testing.T) {
	for _, script := range []string{
		"> query-status\nclose",
		"> query-status\npart {\"return\": {\"sta\nclose",
	} {
		m := dialScript(t, script)
		sub := m.Subscribe(0)
		err := m.Run(testContext(t, 10*time.Second), "query-status", nil, nil)
		if !errors.Is(err, ErrClosed) || errors.Is(err, ErrNoReply) {
			t.Errorf("%q: got %v, want ErrClosed", script, err)
		}
		<-m.Done()
		if _, ok := <-sub.C; ok {
			t.Error("subscription not ended")
		}
		if !errors.Is(sub.Err(), ErrClosed) {
			t.Errorf("subscription ended with %v", sub.Err())
		}
		if err := m.Run(testContext(t, 10*time.Second), "stop", nil, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("command on a closed monitor: %v", err)
		}
	}
}

func TestGarbageEndsTheMonitor(t *testing.T) {
	m := dialScript(t, "> query-status\nraw {]")
	err := m.Run(testContext(t, 10*time.Second), "query-status", nil, nil)
	if !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), `unreadable message "{]"`) {
		t.Errorf("got %v", err)
	}
}

func TestUnexpectedReplyType(t *testing.T) {
	m := dialScript(t, "> query-status\n< [1, 2]")
	var s Status
	err := m.Run(testContext(t, 10*time.Second), "query-status", nil, &s)
	if err == nil || !strings.Contains(err.Error(), "unexpected reply [1, 2]") {
		t.Errorf("got %v", err)
	}
}

func TestLongReply(t *testing.T) {
	long := strings.Repeat("y", 300_000) // over go-qemu's and bufio's limit
	m := dialScript(t, "> query-qmp-schema\n< \""+long+"\"")
	var s string
	if err := m.Run(testContext(t, 10*time.Second), "query-qmp-schema", nil, &s); err != nil || s != long {
		t.Errorf("%d bytes, %v", len(s), err)
	}
}

func TestEventsComeBeforeTheReplyBehindThem(t *testing.T) {
	m := dialScript(t, `
		> stop
		* STOP
		* SHUTDOWN {"guest": true, "reason": "guest-shutdown"}
		<
	`)
	sub := m.Subscribe(0)
	before := time.Now().Truncate(time.Microsecond)
	if err := m.Run(testContext(t, 10*time.Second), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	if len(sub.C) != 2 {
		t.Fatalf("%d events with the reply, want 2", len(sub.C))
	}
	e := <-sub.C
	if e.Name != EventStop || e.Time.Before(before) || e.Time.After(time.Now()) {
		t.Errorf("%+v", e)
	}
	if e.PlannedEnd() {
		t.Error("STOP is no end")
	}
	e = <-sub.C
	if r, guest := e.ShutdownReason(); r != "guest-shutdown" || !guest || !e.PlannedEnd() {
		t.Errorf("%+v", e)
	}
}

func TestSlowSubscriberIsCutOffAloneAndLoudly(t *testing.T) {
	m := dialScript(t, "> a\n* E1\n* E2\n* E3\n<")
	slow, quick := m.Subscribe(2), m.Subscribe(0)
	if err := m.Run(testContext(t, 10*time.Second), "a", nil, nil); err != nil {
		t.Fatal(err)
	}
	var got []string
	for e := range slow.C {
		got = append(got, e.Name)
	}
	if fmt.Sprint(got) != "[E1 E2]" || !errors.Is(slow.Err(), ErrOverflow) {
		t.Errorf("slow subscriber got %v, %v", got, slow.Err())
	}
	if len(quick.C) != 3 || quick.Err() != nil {
		t.Errorf("the other one has %d events, %v", len(quick.C), quick.Err())
	}
	quick.Close()
	quick.Close()
	if quick.Err() != nil {
		t.Errorf("after Close: %v", quick.Err())
	}
}

func TestDialErrors(t *testing.T) {
	dir := t.TempDir()
	silent := qmptest.Serve(t, "", nil) // a greeting that is no greeting: an empty line
	for _, c := range []struct{ path, want string }{
		{filepath.Join(dir, "none.sock"), "no such file"},
		{qmptest.Serve(t, `{"hello": 1}`, nil), "not a QMP greeting"},
		{silent, "another client may hold the monitor"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second) // the socket must have been found
		if c.path != silent {
			cancel()
			ctx, cancel = context.WithTimeout(context.Background(), 10*time.Second)
		}
		_, err := Dial(ctx, c.path, nil)
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.path, err, c.want)
		}
	}
}

func TestNegotiationRefused(t *testing.T) {
	// Events may come before the reply and are not lost to what follows.
	path := qmptest.Serve(t, `{"QMP": {"version": {"qemu": {"micro": 1, "minor": 0, "major": 9}}, "capabilities": []}}`,
		func(c *qmptest.Conn, cmd qmptest.Command) { _ = c.Return(cmd, "") })
	m, err := Dial(testContext(t, 10*time.Second), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.RunOOB(testContext(t, time.Second), "yank", nil, nil); err == nil || !strings.Contains(err.Error(), "no out-of-band") {
		t.Errorf("got %v", err)
	}
}

func TestVersionSupport(t *testing.T) {
	for _, c := range []struct {
		v    Version
		want Support
		rp   bool
	}{
		{Version{Major: 6, Minor: 2}, Unsupported, false},
		{Version{Major: 7, Minor: 2, Micro: 22}, Supported, false},
		{Version{Major: 8, Minor: 1}, Unverified, false},
		{Version{Major: 10, Minor: 0, Micro: 2}, Unsupported, false},
		{Version{Major: 10, Minor: 0, Micro: 8}, Unverified, false},
		{Version{Major: 10, Minor: 0, Micro: 13}, Supported, false},
		{Version{Major: 10, Minor: 2}, Unverified, true},
		{Version{Major: 11, Minor: 1, Micro: 3}, Supported, true},
	} {
		got, why := c.v.Support()
		if got != c.want || c.v.wantsReturnPath() != c.rp {
			t.Errorf("%v: %v (%s), return-path %v", c.v, got, why, c.v.wantsReturnPath())
		}
		if !strings.Contains(why, c.v.String()) && got != Supported {
			t.Errorf("%v: sentence %q does not name it", c.v, why)
		}
	}
}

// FuzzTransport feeds arbitrary bytes after the negotiation: no panic, no hang, and what follows a
// whole line of rubbish is never taken for a reply.
func FuzzTransport(f *testing.F) {
	f.Add([]byte(`{"return": {}, "id": 1}` + "\n"))
	f.Add([]byte(`{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}` + "\n"))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "x"}, "id": 1}` + "\n"))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "x"}}` + "\n"))
	f.Add([]byte(`{"return": {}, "id": "text"}` + "\n"))
	f.Add([]byte("\n\n[]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := qmptest.Serve(t, qmptest.Greeting, func(c *qmptest.Conn, cmd qmptest.Command) {
			_ = c.Raw(string(b))
			_ = c.Close()
		})
		ctx := testContext(t, 10*time.Second)
		m, err := Dial(ctx, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		sub := m.Subscribe(0)
		var v json.RawMessage
		err = m.Run(ctx, "query-status", nil, &v)
		if errors.Is(err, ErrNoReply) {
			t.Fatalf("hang on %q", b)
		}
		for range sub.C {
		}
	})
}
