package netnstest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const childKey = "NETNSTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childKey) != "" {
		// A test process which is killed before it cleans up: it makes a namespace, starts a program in it and waits.
		testing.Main(func(_, _ string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "T", F: func(t *testing.T) {
			n := New(t, "orphan")
			c := n.Command(context.Background(), "sleep", "600")
			if err := n.Start(c); err != nil {
				t.Fatal(err)
			}
			fmt.Println(n.Name(), c.Process.Pid)
			select {}
		}}}, nil, nil)
	}
	Main(m)
}

// fakeT records what is reported instead of failing the test, and runs clean-ups when told to.
type fakeT struct {
	testing.TB
	errors   []string
	cleanups []func()
}

func (f *fakeT) Cleanup(c func())          { f.cleanups = append(f.cleanups, c) }
func (f *fakeT) Errorf(s string, a ...any) { f.errors = append(f.errors, fmt.Sprintf(s, a...)) }
func (f *fakeT) end() {
	for _, c := range slices.Backward(f.cleanups) {
		c()
	}
}

func TestNamespaceIsItsOwnAndGoes(t *testing.T) {
	f := &fakeT{TB: t}
	n := New(f, "one")
	if !strings.HasPrefix(n.Name(), fmt.Sprintf("colodtest-%d-", os.Getpid())) || !strings.HasSuffix(n.Name(), "-one") {
		t.Errorf("name %q", n.Name())
	}
	var here, there unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &here); err != nil {
		t.Fatal(err)
	}
	n.Must(func() error { return unix.Stat("/proc/thread-self/ns/net", &there) })
	if here.Ino == there.Ino || there.Ino != n.inode {
		t.Errorf("namespaces: here %d, inside %d, handle %d", here.Ino, there.Ino, n.inode)
	}
	if got := n.Links(); len(got) != 0 {
		t.Errorf("links of a new namespace: %v", got)
	}
	left, err := Leftovers()
	if err != nil || !slices.Contains(left, n.Name()) {
		t.Errorf("leftovers while it exists: %v, %v", left, err)
	}
	f.end()
	if len(f.errors) != 0 {
		t.Errorf("reported: %v", f.errors)
	}
	if _, err := os.Stat(filepath.Join(dir, n.Name())); !os.IsNotExist(err) {
		t.Errorf("the namespace is still there: %v", err)
	}
}

func TestProcessLeftIsReportedAndKilled(t *testing.T) {
	f := &fakeT{TB: t}
	n := New(f, "left")
	own := n.Command(context.Background(), "sleep", "600")
	if err := n.Start(own); err != nil {
		t.Fatal(err)
	}
	stray := exec.Command("sleep", "600")
	n.Must(stray.Start)
	f.end()
	if len(f.errors) != 1 || !strings.Contains(f.errors[0], fmt.Sprintf("%d (sleep)", stray.Process.Pid)) {
		t.Errorf("reported: %v", f.errors)
	}
	if err := stray.Wait(); err == nil {
		t.Error("the stray process ended by itself")
	}
	if own.ProcessState == nil {
		t.Error("the namespace's own command was not waited for")
	}
}

func TestCommandsAndErrors(t *testing.T) {
	n := New(t, "n")
	out, err := n.Run("ip", "-o", "link")
	if err != nil || strings.Count(out, "\n") != 1 || !strings.Contains(out, "lo:") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := n.Run("ip", "link", "show", "nothing"); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("error: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := n.Command(ctx, "sh", "-c", "sleep 600 & wait")
	if err := n.Start(c); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := c.Wait(); err == nil {
		t.Error("a cancelled command ended well")
	}
}

func TestNetworkOfThree(t *testing.T) {
	a, host, b := New(t, "a"), New(t, "host"), New(t, "b")
	Veth(a, "eth0", host, "pa")
	Veth(b, "eth0", host, "pb")
	host.Bridge("br0", "pa", "pb")
	a.Addr("eth0", "192.0.2.1/24", "2001:db8::1/64")
	b.Addr("eth0", "192.0.2.2/24", "2001:db8::2/64")
	for _, addr := range []string{"192.0.2.2", "2001:db8::2"} {
		l := b.Listen(net.JoinHostPort(addr, "0"))
		go func() {
			if c, err := l.Accept(); err == nil {
				io.WriteString(c, "hello")
				c.Close()
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		c, err := a.Dial(ctx, "tcp", l.Addr().String())
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(c); string(text) != "hello" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
		c.Close()
	}
	dump := host.Dump()
	for _, word := range []string{"br0 bridge", "pa veth", "pb veth"} {
		if !strings.Contains(dump, word) {
			t.Errorf("the dump does not say %q:\n%s", word, dump)
		}
	}
	host.MAC("br0", "52:54:00:00:00:09")
	host.MTU("pa", 1400)
	if l := host.Device("pa").Attrs(); l.MTU != 1400 {
		t.Errorf("MTU %d", l.MTU)
	}
	host.Down("pb")
	host.Delete("br0")
	if host.Exists("br0") || !host.Exists("pa") {
		t.Errorf("devices: %v", host.Links())
	}
}

// TestReap kills a test process that holds a namespace with a program in it; the next process takes both away.
func TestReap(t *testing.T) {
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), childKey+"=1")
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var name string
	var pid int
	if _, err := fmt.Fscan(out, &name, &pid); err != nil {
		t.Fatal(err)
	}
	if got, err := Reap(); err != nil || slices.Contains(got, name) {
		t.Errorf("the namespace of a running process was reaped: %v, %v", got, err)
	}
	child.Process.Kill()
	child.Wait()
	got, err := Reap()
	if err != nil || !slices.Contains(got, name) {
		t.Errorf("reaped %v, %v; want %s", got, err, name)
	}
	for end := time.Now().Add(30 * time.Second); unix.Kill(pid, 0) == nil && !zombie(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the program in the namespace still runs")
		}
	}
	if left, _ := Leftovers(); slices.Contains(left, name) {
		t.Errorf("left over: %v", left)
	}
}

// zombie says whether a process has ended and nobody has waited for it yet.
func zombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(text), ") ")
	return err != nil || ok && strings.HasPrefix(rest, "Z")
}

func TestOwner(t *testing.T) {
	for name, want := range map[string]int{"colodtest-12-3-a": 12, "colodtest-x-3": 0, "colodtest-12": 0, "other-12-3": 0, "colodtest--1-": 0} {
		if pid, ok := owner(name); ok != (want > 0) || ok && pid != want {
			t.Errorf("%q: %d, %v", name, pid, ok)
		}
	}
}
