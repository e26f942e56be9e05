// Package qmptest is a fake QEMU monitor for unit tests: a unix socket that speaks the QEMU Machine
// Protocol as far as a text script or a function says. It is no QEMU: what real ones do is tested
// with real ones.
package qmptest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Command is what a client sent.
type Command struct {
	Name string
	OOB  bool
	Args json.RawMessage // arguments object, nil when there is none
	ID   json.RawMessage // nil when there is none
}

// Conn is one client's connection. Its methods may be used by many goroutines.
type Conn struct {
	c  net.Conn
	mu sync.Mutex
}

// Raw sends text as it is.
func (c *Conn) Raw(text string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.c.Write([]byte(text))
	return err
}

// Return answers a command with a JSON value; "" means an empty object.
func (c *Conn) Return(cmd Command, value string) error {
	if value == "" {
		value = "{}"
	}
	return c.Raw(fmt.Sprintf(`{"return": %s%s}`+"\r\n", value, id(cmd)))
}

// Fail answers a command with an error.
func (c *Conn) Fail(cmd Command, class, desc string) error {
	return c.Raw(fmt.Sprintf(`{"error": {"class": %q, "desc": %q}%s}`+"\r\n", class, desc, id(cmd)))
}

// Event sends an event, stamped with at. data is a JSON object or "".
func (c *Conn) Event(at time.Time, name, data string) error {
	if data != "" {
		data = `, "data": ` + data
	}
	return c.Raw(fmt.Sprintf(`{"timestamp": {"seconds": %d, "microseconds": %d}, "event": %q%s}`+"\r\n",
		at.Unix(), at.Nanosecond()/1000, name, data))
}

// Close ends the connection.
func (c *Conn) Close() error { return c.c.Close() }

func id(cmd Command) string {
	if cmd.ID == nil {
		return ""
	}
	return `, "id": ` + string(cmd.ID)
}

// Greeting is that of a QEMU 7.2.22.
const Greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "fake"}, "capabilities": ["oob"]}}`

// Serve listens on a new unix socket and serves each client, one at a time, with a call of handle per
// command after the negotiation, all from one goroutine per client. It returns the socket's path.
func Serve(t testing.TB, greeting string, handle func(*Conn, Command)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "qmptest-")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "qmp.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var now *Conn
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			c := &Conn{c: nc}
			mu.Lock()
			now = c
			mu.Unlock()
			c.serve(greeting, handle)
			nc.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		if now != nil {
			now.Close()
		}
		mu.Unlock()
		wg.Wait()
		os.RemoveAll(dir)
	})
	return path
}

func (c *Conn) serve(greeting string, handle func(*Conn, Command)) {
	if c.Raw(greeting+"\r\n") != nil {
		return
	}
	in := bufio.NewReader(c.c)
	dec := json.NewDecoder(in)
	negotiated := false
	for {
		var m struct {
			Execute   string          `json:"execute"`
			ExecOOB   string          `json:"exec-oob"`
			Arguments json.RawMessage `json:"arguments"`
			ID        json.RawMessage `json:"id"`
		}
		if dec.Decode(&m) != nil {
			return
		}
		cmd := Command{Name: m.Execute + m.ExecOOB, OOB: m.ExecOOB != "", Args: m.Arguments, ID: m.ID}
		if !negotiated {
			if cmd.Name != "qmp_capabilities" {
				_ = c.Fail(cmd, "CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'")
				continue
			}
			negotiated = true
			_ = c.Return(cmd, "")
			continue
		}
		handle(c, cmd)
	}
}

// Script serves one text script, line by line:
//
//	> NAME [TEXT]     wait for the command NAME; TEXT must occur in its arguments
//	< [JSON]          answer it with this value
//	! CLASS TEXT      answer it with this error
//	* NAME [JSON]     send an event
//	raw TEXT          send TEXT and a line end
//	part TEXT         send TEXT without one
//	close             close the connection; the next client goes on with the script
//	# ...             a comment
//
// A command that the script does not expect fails the test and is answered with an error; at the
// end of the test the whole script must have been used up. The answer to a command may be left out: then it never comes.
func Script(t testing.TB, script string) string {
	t.Helper()
	s := &player{t: t}
	for line := range strings.Lines(script) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			s.lines = append(s.lines, line)
		}
	}
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.lines) > 0 && !t.Failed() {
			t.Errorf("fake QEMU: script not finished, next is %q", s.lines[0])
		}
	})
	return Serve(t, Greeting, s.handle)
}

type player struct {
	t     testing.TB
	mu    sync.Mutex
	lines []string
}

func (s *player) handle(c *Conn, cmd Command) {
	s.mu.Lock()
	defer s.mu.Unlock()
	unexpected := func() {
		want := "the end of the script"
		if len(s.lines) > 0 {
			want = s.lines[0]
		}
		s.t.Errorf("fake QEMU: got command %s %s, want %q", cmd.Name, cmd.Args, want)
		_ = c.Fail(cmd, "GenericError", "unexpected command")
	}
	if len(s.lines) == 0 {
		unexpected()
		return
	}
	op, rest, _ := strings.Cut(s.lines[0], " ")
	name, text, _ := strings.Cut(rest, " ")
	if op != ">" || name != cmd.Name || !strings.Contains(string(cmd.Args), strings.TrimSpace(text)) {
		unexpected()
		return
	}
	s.lines = s.lines[1:]
	for len(s.lines) > 0 {
		op, rest, _ := strings.Cut(s.lines[0], " ")
		if op == ">" {
			return
		}
		s.lines = s.lines[1:]
		first, more, _ := strings.Cut(rest, " ")
		switch op {
		case "<":
			_ = c.Return(cmd, rest)
		case "!":
			_ = c.Fail(cmd, first, more)
		case "*":
			_ = c.Event(time.Now(), first, more)
		case "raw":
			_ = c.Raw(rest + "\r\n")
		case "part":
			_ = c.Raw(rest)
		case "close":
			_ = c.Close()
			return
		default:
			s.t.Errorf("fake QEMU: no such step %q", op)
		}
	}
}
