package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"colod/internal/osthread"
)

const netnsDir = "/run/netns"

// Limits of single steps, for a loaded machine.
const (
	termLimit    = 20 * time.Second
	healthLimit  = 2 * time.Second // of one question
	healthyLimit = 60 * time.Second
)

// member is one member and the process that runs it, if any.
type member struct {
	Member
	dir string

	mu   sync.Mutex
	proc *os.Process
	done chan struct{} // closed when proc has ended; nil for an adopted one
}

// adopt takes over a process that runs already: another's child, whose end is looked for where it matters.
func (m *member) adopt(pid int) {
	p, err := os.FindProcess(pid)
	if err != nil {
		return // it has just ended
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.proc, m.done = p, nil
}

func (m *member) logPath() string { return filepath.Join(m.dir, "log") }

// enter runs f on a thread inside the member's namespace; what f opens or starts stays there.
func (m *member) enter(f func() error) error {
	if m.Namespace == "" {
		return f()
	}
	return osthread.Throwaway(func() error {
		ns, err := os.Open(filepath.Join(netnsDir, m.Namespace))
		if err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace %s: %w", m.Namespace, err)
		}
		return f()
	})
}

// launch starts the process of a member.
func (c *Cluster) launch(i int) error {
	m := c.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc != nil {
		return fmt.Errorf("member %s runs already", m.Name)
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return fmt.Errorf("make directory of member: %w", err)
	}
	log, err := os.OpenFile(m.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log of member: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(c.cfg.Binary, c.args(m)...)
	cmd.Dir = m.dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // etcd takes options from ETCD_ variables, too
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := m.enter(cmd.Start); err != nil {
		return fmt.Errorf("launch member %s: %w", m.Name, err)
	}
	done := make(chan struct{})
	m.proc, m.done = cmd.Process, done
	go func() {
		// How it ended stands in its log.
		_ = cmd.Wait()
		close(done)
	}()
	return nil
}

// PID is the process of member i, or 0.
func (c *Cluster) PID(i int) int {
	m := c.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc == nil {
		return 0
	}
	return m.proc.Pid
}

// Restart starts a member again that was killed or stopped, with the data that it had. It returns at once: without a
// majority of members it would not come to serve. See WaitHealthy.
func (c *Cluster) Restart(i int) error { return c.launch(i) }

// Kill ends a member as a crash of its process does. One that does not run is left as it is.
func (c *Cluster) Kill(i int) error { return c.end(i, syscall.SIGKILL) }

// Stop ends a member in an orderly way.
func (c *Cluster) Stop(i int) error { return c.end(i, syscall.SIGTERM) }

func (c *Cluster) end(i int, sig syscall.Signal) error {
	m := c.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc == nil {
		return nil
	}
	_ = m.proc.Signal(sig)
	if m.done == nil {
		done := make(chan struct{})
		m.done = done
		go func() {
			for deadline := time.Now().Add(2 * termLimit); len(Processes(m.dir)) > 0 && time.Now().Before(deadline); {
				time.Sleep(5 * time.Millisecond)
			}
			close(done)
		}()
	}
	limit := time.NewTimer(termLimit)
	defer limit.Stop()
	select {
	case <-m.done:
	case <-limit.C:
		_ = m.proc.Kill()
		<-m.done
	}
	m.proc, m.done = nil, nil
	return nil
}

// Pause freezes a member: its connections stay open and nobody answers on them. Continue goes on.
func (c *Cluster) Pause(i int) error { return c.signal(i, syscall.SIGSTOP) }

// Continue lets a frozen member go on.
func (c *Cluster) Continue(i int) error { return c.signal(i, syscall.SIGCONT) }

func (c *Cluster) signal(i int, sig syscall.Signal) error {
	m := c.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc == nil {
		return fmt.Errorf("signal member %s: it does not run", m.Name)
	}
	if err := m.proc.Signal(sig); err != nil {
		return fmt.Errorf("signal member %s: %w", m.Name, err)
	}
	return nil
}

// WaitHealthy waits until a member serves reads that a majority has agreed on.
func (c *Cluster) WaitHealthy(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, healthyLimit)
	defer cancel()
	m := c.members[i]
	for {
		m.mu.Lock()
		runs, done := m.proc != nil, m.done
		m.mu.Unlock()
		if !runs {
			return fmt.Errorf("member %s does not run", m.Name)
		}
		err := c.Health(ctx, i)
		if err == nil {
			return nil
		}
		select {
		case <-done:
			return fmt.Errorf("member %s ended: %s", m.Name, c.LogTail(i))
		case <-ctx.Done():
			return fmt.Errorf("member %s does not serve: %w: %s", m.Name, err, c.LogTail(i))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Health asks a member once whether it serves.
func (c *Cluster) Health(ctx context.Context, i int) error {
	m := c.members[i]
	conf, err := c.healthTLS()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	tr := &http.Transport{
		TLSClientConfig: conf, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = m.enter(func() (err error) {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.clientURL(m)+"/health", nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return fmt.Errorf("ask member %s for its health: %w", m.Name, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return fmt.Errorf("ask member %s for its health: %w", m.Name, err)
	}
	if res.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(`"health":"true"`)) {
		return fmt.Errorf("member %s is not healthy: %s: %s", m.Name, res.Status, bytes.TrimSpace(body))
	}
	return nil
}

// LogTail is the end of a member's log.
func (c *Cluster) LogTail(i int) string {
	const lines = 8
	data, err := os.ReadFile(c.members[i].logPath())
	if errors.Is(err, os.ErrNotExist) {
		return "no log"
	}
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
