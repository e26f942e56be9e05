package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onTerminal runs the command in a pseudo terminal of a size; what it writes
// can be looked at while it runs.
type onTerminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	ended  chan error
	read   chan struct{} // closed when all that it wrote has been read

	mu  sync.Mutex
	out bytes.Buffer
}

func startOnTerminal(t *testing.T, cols, rows uint16, env []string, args ...string) *onTerminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	o := &onTerminal{t: t, master: master, ended: make(chan error, 1), read: make(chan struct{})}
	o.cmd = exec.Command("colod", args...) // this test binary, by TestMain
	o.cmd.Env = append(os.Environ(), append([]string{"TERM=xterm-256color", "LC_ALL=C.UTF-8"}, env...)...)
	o.cmd.Stdin, o.cmd.Stdout, o.cmd.Stderr = slave, slave, slave
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(o.read)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			o.mu.Lock()
			o.out.Write(b[:n])
			o.mu.Unlock()
			if err != nil && !errors.Is(err, unix.EINTR) {
				return // EIO: the other side is closed; ErrClosed: the test is over
			}
		}
	}()
	go func() { o.ended <- o.cmd.Wait() }()
	t.Cleanup(func() { _ = o.cmd.Process.Kill() }) // fails when it has ended, as it should have
	return o
}

func (o *onTerminal) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.out.String()
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

func (o *onTerminal) await(what string) {
	o.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(o.text(), what) {
			return
		}
	}
	o.t.Fatalf("%q did not come; the terminal got %q", what, tail(o.text()))
}

func (o *onTerminal) write(keys string) {
	o.t.Helper()
	if _, err := o.master.WriteString(keys); err != nil {
		o.t.Fatal(err)
	}
}

// end waits for the end with exit status 0.
func (o *onTerminal) end() {
	o.t.Helper()
	select {
	case err := <-o.ended:
		if err != nil {
			o.t.Fatalf("ended with %v; the terminal got %q", err, tail(o.text()))
		}
		<-o.read
	case <-time.After(time.Minute):
		o.t.Fatalf("did not end; the terminal got %q", tail(o.text()))
	}
}

// TestTopOnATerminal: top takes the whole screen, follows the daemon, and
// gives the terminal back as it was, by each way of ending it.
func TestTopOnATerminal(t *testing.T) {
	d := newFakeDaemon(t)
	for name, end := range map[string]func(*onTerminal){
		"q":       func(o *onTerminal) { o.write("q") },
		"ctrl-c":  func(o *onTerminal) { o.write("\x03") },
		"SIGTERM": func(o *onTerminal) { _ = o.cmd.Process.Signal(syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			o := startOnTerminal(t, 80, 24, nil, "top", "--socket", d.socket, "--interval", "100ms")
			o.await("\x1b[?1049h") // the alternate screen (xterm control sequences)
			o.await("divergences")
			o.write("\x1b[B")
			o.await("\x1b[7mguest2")
			end(o)
			o.end()
			text := o.text()
			if !strings.Contains(text, "\x1b[?1049l") || strings.LastIndex(text, "\x1b[?25h") < strings.LastIndex(text, "\x1b[?25l") {
				t.Errorf("the terminal is not given back: %q", tail(text))
			}
		})
	}
}

func TestTopWithoutColours(t *testing.T) {
	d := newFakeDaemon(t)
	o := startOnTerminal(t, 80, 24, []string{"NO_COLOR=1"}, "top", "--socket", d.socket, "--once")
	o.end()
	o.await("divergences")
	if strings.Contains(o.text(), "\x1b") {
		t.Errorf("escapes in %q", o.text())
	}
}

func TestTopNeedsATerminal(t *testing.T) {
	d := newFakeDaemon(t)
	var out, errOut bytes.Buffer
	if code := execute(t.Context(), []string{"top", "--socket", d.socket}, &out, &errOut); code != exitUsage || !strings.Contains(errOut.String(), "colod top --once") {
		t.Errorf("exit code %d, %s", code, errOut.String())
	}
	out.Reset()
	if code := execute(t.Context(), []string{"top", "guest2", "--once", "--socket", d.socket}, &out, &errOut); code != exitOK || !strings.Contains(out.String(), "guest2: speaker a") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("exit code %d, %s", code, out.String())
	}
	if code := execute(t.Context(), []string{"top", "nobody", "--once", "--socket", d.socket}, &out, &errOut); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(d.socket); errors.Is(err, fs.ErrNotExist) {
		t.Error("the daemon's socket is gone")
	}
}
