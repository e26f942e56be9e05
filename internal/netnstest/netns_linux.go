// Package netnstest gives tests and benchmarks network namespaces of their own on a real kernel: hosts that are joined
// by veth pairs and bridges, a stand-in for a virtual machine behind a tap, and commands and functions that run inside.
//
// Everything is named colodtest-<pid>-<n>-<name>, is taken away when the test ends however it ends, and what is left
// over is an error of the test. What a killed test process left is taken away by the next one (Reap). It needs root.
package netnstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"colod/internal/osthread"
)

const (
	prefix = "colodtest-"
	dir    = "/run/netns"
)

var (
	sequence atomic.Uint32
	reapOnce sync.Once
)

// NS is a network namespace. Its methods may be used by many goroutines.
type NS struct {
	t      testing.TB
	name   string
	handle netns.NsHandle
	inode  uint64
	nl     *netlink.Handle

	mu       sync.Mutex
	commands []*exec.Cmd
}

// New makes a namespace with its loopback device up. It ends with the test: processes that still run in it are killed,
// and the test fails if there were any which Command did not start.
func New(t testing.TB, name string) *NS {
	t.Helper()
	reapOnce.Do(func() {
		if _, err := Reap(); err != nil {
			t.Logf("netnstest: %v", err)
		}
	})
	n := &NS{t: t, name: fmt.Sprintf("%s%d-%d-%s", prefix, os.Getpid(), sequence.Add(1), name)}
	if err := osthread.Throwaway(func() (err error) { n.handle, err = netns.NewNamed(n.name); return err }); err != nil {
		t.Fatalf("netnstest: make namespace %s: %v (run the test as root)", n.name, err)
	}
	t.Cleanup(n.remove)
	var st unix.Stat_t
	if err := unix.Fstat(int(n.handle), &st); err != nil {
		t.Fatalf("netnstest: stat namespace %s: %v", n.name, err)
	}
	n.inode = st.Ino
	nl, err := netlink.NewHandleAt(n.handle, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatalf("netnstest: open netlink in %s: %v", n.name, err)
	}
	n.nl = nl
	n.Up("lo")
	return n
}

// Name is the namespace's name for ip(8): ip netns exec NAME.
func (n *NS) Name() string { return n.name }

// Path is the namespace's file.
func (n *NS) Path() string { return filepath.Join(dir, n.name) }

// Netlink is a route netlink handle inside the namespace.
func (n *NS) Netlink() *netlink.Handle { return n.nl }

// Do runs f in the namespace, on an operating system thread that is thrown away afterwards, and returns its error.
// Sockets and files that f opens stay in the namespace. Goroutines that f starts do not run there. f may end the test
// as the test's goroutine may.
func (n *NS) Do(f func() error) error {
	err := osthread.Throwaway(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.name, err)
		}
		return f()
	})
	if errors.Is(err, osthread.ErrEnded) {
		n.t.FailNow()
	}
	return err
}

// Must is Do for functions whose error ends the test.
func (n *NS) Must(f func() error) {
	n.t.Helper()
	if err := n.Do(f); err != nil {
		n.t.Fatalf("in %s: %v", n.name, err)
	}
}

// Command prepares a command that runs in the namespace; start it with Start or Run of NS, not of exec.Cmd. It is
// killed with its process group when the context or the test ends.
func (n *NS) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	return c
}

// Start starts a command of Command in the namespace. The caller waits for it with c.Wait, or leaves it to the test's
// end.
func (n *NS) Start(c *exec.Cmd) error {
	if err := n.Do(c.Start); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.commands = append(n.commands, c)
	return nil
}

// Run runs a program in the namespace to its end and returns what it wrote. A failure's error holds that text too.
func (n *NS) Run(name string, args ...string) (string, error) {
	c := n.Command(context.Background(), name, args...)
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	err := n.Start(c)
	if err == nil {
		err = c.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), err
}

// Listen listens on a TCP address in the namespace until the test ends.
func (n *NS) Listen(addr string) net.Listener {
	n.t.Helper()
	var l net.Listener
	n.Must(func() (err error) { l, err = net.Listen("tcp", addr); return err })
	n.t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket opens a UDP socket in the namespace until the test ends.
func (n *NS) ListenPacket(addr string) net.PacketConn {
	n.t.Helper()
	var c net.PacketConn
	n.Must(func() (err error) { c, err = net.ListenPacket("udp", addr); return err })
	n.t.Cleanup(func() { c.Close() })
	return c
}

// Dial connects from the namespace. The address must be numeric.
func (n *NS) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() (err error) {
		c, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// remove takes the namespace away and reports processes which nobody has ended.
func (n *NS) remove() {
	n.mu.Lock()
	for _, c := range n.commands {
		if c.ProcessState == nil {
			syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
			c.Wait()
		}
	}
	n.mu.Unlock()
	// A killed command's own children die with its process group, a little later.
	for deadline := time.Now().Add(5 * time.Second); len(processesIn(n.inode)) > 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	for _, p := range processesIn(n.inode) {
		n.t.Errorf("netnstest: process %s was left in namespace %s", p, n.name)
		syscall.Kill(p.pid, syscall.SIGKILL)
	}
	if n.nl != nil {
		n.nl.Close()
	}
	n.handle.Close()
	if err := netns.DeleteNamed(n.name); err != nil {
		n.t.Errorf("netnstest: delete namespace %s: %v", n.name, err)
	}
}

type process struct {
	pid  int
	name string
}

func (p process) String() string { return fmt.Sprintf("%d (%s)", p.pid, p.name) }

// processesIn lists the other processes whose namespace has the given inode.
func processesIn(inode uint64) []process {
	var out []process
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) != nil || st.Ino != inode {
			continue
		}
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		out = append(out, process{pid, strings.TrimSpace(string(comm))})
	}
	return out
}

// Leftovers lists the namespaces of this package that exist, by name: those of this process, and those of processes
// that have ended. A TestMain calls it after the tests: it must be empty.
func Leftovers() ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var out []string
	for _, e := range entries {
		pid, ok := owner(e.Name())
		if ok && (pid == os.Getpid() || syscall.Kill(pid, 0) == syscall.ESRCH) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// owner is the process that made a namespace of this package.
func owner(name string) (pid int, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	digits, _, ok := strings.Cut(rest, "-")
	if !ok {
		return 0, false
	}
	pid, err := strconv.Atoi(digits)
	return pid, err == nil && pid > 0
}

// Reap takes away the namespaces of test processes that have ended without cleaning up, with the processes in them,
// and returns their names. New calls it once.
func Reap() ([]string, error) {
	names, err := Leftovers()
	if err != nil {
		return nil, err
	}
	var reaped []string
	var errs []error
	for _, name := range names {
		if pid, _ := owner(name); pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dir, name), &st) == nil {
			for _, p := range processesIn(st.Ino) {
				syscall.Kill(p.pid, syscall.SIGKILL)
			}
		}
		if err := netns.DeleteNamed(name); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("delete namespace %s: %w", name, err))
			continue
		}
		os.Remove(filepath.Join(dir, name)) // a file that was not mounted on yet
		reaped = append(reaped, name)
	}
	return reaped, errors.Join(errs...)
}

// Main runs a package's tests and fails them if a namespace is left. Use it as TestMain's body.
func Main(m *testing.M) {
	code := m.Run()
	if left, err := Leftovers(); err != nil || len(left) > 0 {
		fmt.Fprintf(os.Stderr, "netnstest: left over: %v %v\n", left, err)
		if code == 0 {
			code = 1
		}
	}
	os.Exit(code)
}
